"""uvicorn's HTTP protocol, with refusals in JSON like everybody else's, and answers that are written in one piece."""

from functools import partial
from http import HTTPStatus

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.tensor_response import WRITES_WHOLE


class HttpProtocol(HttpToolsProtocol):
    """What stands between the socket and the application."""

    def send_400_response(self, msg: str) -> None:
        """Answer ``{"error"}`` and close: what is not HTTP never reaches the application. msg: uvicorn's words."""
        body = orjson.dumps({"error": f"{msg} It must be HTTP/1.1."})
        self.transport.write(
            f"HTTP/1.1 {HTTPStatus.BAD_REQUEST.value} {HTTPStatus.BAD_REQUEST.phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            + body
        )
        self.transport.close()

    def on_headers_complete(self) -> None:
        """Offer the application to write a whole response at once."""
        super().on_headers_complete()
        self.scope[WRITES_WHOLE] = partial(_write_whole, self.cycle)  # type: ignore[literal-required]  # ours


def _write_whole(cycle: RequestResponseCycle, response: bytes) -> bool:
    """Write status line, headers and body, and end the request; False where ASGI's own way must be taken.

    That one looks at each header with two regular expressions and takes two messages: 14 us, of 40 that uvicorn needs
    to echo 9 KiB. It also knows what to do when the client reads slowly or has left, or the connection is to end.
    """
    if cycle.flow.write_paused or cycle.disconnected or not cycle.keep_alive:
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.transport.write(b"".join((b"HTTP/1.1 200 OK\r\n", _headers(cycle), response)))
    cycle.message_event.set()
    cycle.on_response()
    return True


def _headers(cycle: RequestResponseCycle) -> bytes:
    """Those that the server adds, such as the date."""
    return b"".join([b"%b: %b\r\n" % header for header in cycle.default_headers])
