"""uvicorn's HTTP protocol, with limits on how long and how large a request may come, and refusals in JSON.

A client that sends a byte a second costs a socket and nothing else: it is looked at once a second, not timed by itself.
"""

import asyncio
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

import httptools
import orjson
from starlette.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.api_key import HEALTH_PATHS
from service.call import WHEN_CLIENT_LEAVES
from service.lifecycle import Lifecycle
from service.request_id import HEADER, REQUEST_ID, current, id_of, new_ids
from service.staged_transport import LEAVING_S, StagedTransport
from service.starts import Starts
from service.whole_response import WRITES_WHOLE

NOSNIFF = (b"x-content-type-options", b"nosniff")  # a browser must not take for a page what is none

NO_HTTP = "Invalid HTTP request received."  # uvicorn's words

MOST_AHEAD = 128  # requests that one client may send before their answers; each holds some KiB


@dataclass(frozen=True)
class Limits:
    """What one connection may take; see the settings of the same names."""

    header_timeout_s: float
    body_timeout_s: float
    max_header_bytes: int
    max_connections: int

    @property
    def seconds(self) -> tuple[float, float]:
        """How long a client may keep us waiting."""
        return self.header_timeout_s, self.body_timeout_s


class HttpProtocol(HttpToolsProtocol):
    """What stands between the socket and the application."""

    # Not in a dictionary: with uvicorn's 28 it would have more than the 30 that Python finds quickly, all of them.
    __slots__ = (
        "_body_since",
        "_discards",
        "_head_bytes",
        "_head_since",
        "_leave",
        "_lifecycle",
        "_limits",
        "_new_ids",
        "_received",
        "_running",
        "_stalled_since",
        "_starts",
        "_unsent",
    )

    transport: StagedTransport

    def __init__(self, *args: Any, limits: Limits, lifecycle: Lifecycle, starts: Starts, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._starts = starts
        self._limits = limits
        self._lifecycle = lifecycle
        self._new_ids = new_ids()
        self._head_since: float | None = self.loop.time()  # while a request's head is awaited or comes
        self._head_bytes = 0  # received that were no body
        self._received = 0  # at once, with what is being parsed
        self._body_since: float | None = None  # while its body comes
        self._discards = False  # what comes, the client having sent what cannot be answered
        self._stalled_since: float | None = None  # while the client takes nothing of its answer
        self._unsent = 0  # bytes of answers, when we last looked
        self._running: RequestResponseCycle | None = None  # the last that was begun; cycle is the last that has come
        self._leave: Callable[[], None] | None = None  # tells the request that is being answered

    # ---- what uvicorn and the parser call ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """One too many is told so by its first answer."""
        super().connection_made(StagedTransport(transport, self._is_sending))
        if len(self.connections) > (most := self._limits.max_connections):
            message = (
                f"{most} connections are open, the most this server takes (its setting MAX_CONNECTIONS): try again"
            )
            self._refuse_with(HTTPStatus.SERVICE_UNAVAILABLE, message, {"Retry-After": "1"}, but=HEALTH_PATHS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered that nobody waits for it any more."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
        super().connection_lost(exc)
        if self._running is not None:
            self._running.message_event.set()
        if self._leave is not None:
            self._leave()

    def data_received(self, data: bytes) -> None:
        """Count what is no body, head or trailer: a parser would keep it all."""
        if self._discards or self.transport.is_lingering:
            self.transport.heard_at = self.loop.time()
            return
        if self._head_since is None and self._body_since is None:
            self._head_since = self.loop.time()  # if no more than an empty line comes, no message will have begun
        self._received = len(data)
        self._head_bytes += self._received
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            message = f"{NO_HTTP} {error.__context__ or error}. It must be HTTP/1.1."
            token = current.set(self._refuse(HTTPStatus.BAD_REQUEST, message))
            self.logger.warning(message)
            current.reset(token)
        if self._head_bytes > (most := self._limits.max_header_bytes) and not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _too_large(most))

    def on_body(self, body: bytes) -> None:
        """Some of a body."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head_since = self.loop.time()

    def on_headers_complete(self) -> None:
        """Hand the request to the application, with what this server offers beyond ASGI."""
        if self._is_upgrade():
            return
        most = self._limits.max_header_bytes
        if max(self._head_bytes, self._received) > most and self._head_size() > most:
            self._refuse_with(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _too_large(most), {})
        if len(self.pipeline) >= MOST_AHEAD:
            raise ValueError("too many requests ahead of their answers")  # the parser ends, and with it the connection
        self._head_since, self._head_bytes, self._body_since = None, 0, self.loop.time()
        super().on_headers_complete()
        if self._lifecycle.is_draining:
            self.cycle.keep_alive = False
        request_id = id_of(self.headers, self._new_ids)
        self.scope[REQUEST_ID] = request_id  # type: ignore[literal-required]  # ours
        # Here every answer gets them, also those that no application gives (docs/decisions/0012).
        self.cycle.default_headers = [*self.cycle.default_headers, NOSNIFF, (HEADER, request_id)]
        self.scope[WRITES_WHOLE] = partial(_write_whole, self.cycle)  # type: ignore[literal-required]  # ours
        self.headers = []  # a trailer is no header: the scope keeps those that came before the body
        self.scope[WHEN_CLIENT_LEAVES] = self._tell_of_leaving  # type: ignore[literal-required]  # ours

    def on_message_complete(self) -> None:
        """Go on reading, where uvicorn waits for the answer after a large body: or no leaving would be noticed."""
        if self._is_upgrade():
            return
        super().on_message_complete()
        self._body_since, self._head_bytes = None, 0
        if self.cycle.response_complete:  # the rest of a body that nobody wanted
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        if not self.pipeline:
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """Read on only when all that has come is being answered."""
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection; one that carries a request again is none."""
        if self.cycle.response_complete:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """End when what is in flight is answered; a request of which half has come is in flight."""
        if self._head_since is None or not self._head_bytes:
            super().shutdown()

    def pause_writing(self) -> None:
        """The client takes its answer more slowly than it is written."""
        super().pause_writing()
        self._stalled_since = self.loop.time()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._stalled_since = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        begin = partial(super()._start_asgi_task, cycle, app)
        if cycle.scope["path"] in HEALTH_PATHS:
            begin()
        else:
            self._starts.begin(begin)

    # ---- what the server calls ---------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """End a connection whose client keeps us waiting. now: the event loop's time, s."""
        limits = self._limits
        unsent, before = self.transport.get_write_buffer_size(), self._unsent
        self._unsent = unsent
        if not unsent:
            self._stalled_since = None
        elif self._stalled_since is None or (unsent != before and not self.flow.write_paused):
            self._stalled_since = now
        if self._stalled_since is not None and now - self._stalled_since > limits.body_timeout_s:
            self.transport.abort()
        elif self.transport.is_lingering:
            most_s = min(limits.body_timeout_s, LEAVING_S) if self._lifecycle.is_draining else limits.body_timeout_s
            self.transport.look(now, most_s)
        elif self.transport.is_closing():
            return
        elif self.pipeline or self.flow.read_paused:
            self._head_since, self._body_since = self._head_since and now, self._body_since and now  # it waits for us
        elif self._head_since is not None and now - self._head_since > limits.header_timeout_s:
            if not self._head_bytes:  # a connection that was opened ahead of its first request
                self.transport.close()
            elif self._running is None or self._running.response_complete:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, _late("head", limits.header_timeout_s, "HEADER"))
        elif self._body_since is not None and now - self._body_since > limits.body_timeout_s:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, _late("body", limits.body_timeout_s, "BODY"))

    def drain(self) -> None:
        """Answer what is in flight with ``Connection: close``; where the answer has begun without, the next is."""
        for cycle in (self._running, self.cycle):
            if cycle is not None and not cycle.response_started:
                cycle.keep_alive = False

    # ------------------------------------------------------------------------------------------------------------------

    def _tell_of_leaving(self, leave: Callable[[], None]) -> None:
        self._leave = leave

    def _is_sending(self) -> bool:
        """Whether the client may be in the middle of a request, or has sent more than will be answered."""
        is_in_head = self._head_since is not None and self.cycle is not None
        return is_in_head or self._body_since is not None or self._discards or bool(self.pipeline)

    def _is_upgrade(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _parse(self, data: bytes) -> None:
        """A request to speak another protocol is taken for one without that wish, as HTTP allows.

        The parser takes all behind its head for the other protocol, its body too: it gets the head again without.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if not self._is_upgrade():  # CONNECT: what follows is for somebody else
                    self.cycle.keep_alive, self._discards = False, True
                    return
                data = data[upgrade.args[0] :]
                version = self.parser.get_http_version().encode()
                lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
                lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
                self.parser.feed_data(b"\r\n".join((*lines, b"", b"")))
            else:
                return

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _refuse_with(self, status: HTTPStatus, message: str, headers: dict[str, str], but: Container[str] = ()) -> None:
        """Let the next request be answered so, and close after it; but: paths that are answered as ever."""
        answer, app = JSONResponse({"error": message}, status, {**headers, "Connection": "close"}), self.app

        async def refused(scope: Any, receive: Any, send: Any) -> None:
            await (app if scope["path"] in but else answer)(scope, receive, send)

        self.app = refused

    def _refuse(self, status: HTTPStatus, message: str) -> bytes:
        """Answer ``{"error"}`` now and close; where other requests of this connection wait for theirs, after them.

        The id of the request that was answered so, nothing where none was.
        """
        cycle, running, is_whole = self.cycle, self._running, self._body_since is None
        is_answered = cycle is not None and cycle.response_complete and not is_whole
        self._head_since, self._body_since, self._discards = None, None, True
        if (running is not None and not running.response_complete) and (
            running is not cycle or running.response_started or is_whole
        ):
            cycle.keep_alive = False
            if self.pipeline and not is_whole:  # its turn comes, the rest of its body does not
                self.pipeline[0] = cycle, JSONResponse({"error": message}, status)  # type: ignore[assignment]  # ASGI
            return b""
        request_id = b""
        if not is_answered:  # before its body had come
            if cycle is not None:
                cycle.disconnected = True  # whatever it may still send comes too late
            is_pending = cycle is not None and not cycle.response_complete
            request_id = cycle.scope[REQUEST_ID] if is_pending else next(self._new_ids)  # type: ignore[literal-required]
            body = orjson.dumps({"error": message})
            self.transport.write(
                f"HTTP/1.1 {status.value} {status.phrase}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
                f"x-content-type-options: nosniff\r\nx-request-id: {request_id.decode()}\r\n"
                f"connection: close\r\n\r\n".encode()
                + body
            )
        self.transport.close()
        return request_id


def _too_large(most: int) -> str:
    return f"the request's head has more than {most} bytes, the most this server takes (its setting MAX_HEADER_BYTES)"


def _late(what: str, seconds: float, setting: str) -> str:
    return (
        f"the request's {what} had not come after {seconds:g} s, the most this server waits ({setting}_TIMEOUT_SECONDS)"
    )


def _write_whole(cycle: RequestResponseCycle, status: int, response: bytes) -> bool:
    """Write status line, headers and body, and end the request; False where ASGI's own way must be taken.

    That one looks at each header with two regular expressions and takes two messages: 14 us, of 40 that uvicorn needs
    to echo 9 KiB. It also knows what to do when the client reads slowly or has left, or the connection is to end.
    """
    if cycle.flow.write_paused or cycle.disconnected or not cycle.keep_alive or cycle.scope["method"] == "HEAD":
        return False
    cycle.response_started = cycle.response_complete = True
    headers = map(b": ".join, cycle.default_headers)  # those that the server adds, such as the date
    cycle.transport.write(STATUS_LINE[status] + b"\r\n".join((*headers, response)))
    cycle.message_event.set()
    cycle.on_response()
    return True
