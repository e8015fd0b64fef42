"""Requests to an application, each with a record that is told of when its answer has gone."""

from collections.abc import Callable, Sequence
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.record import RECORD, Record
from service.whole_response import WRITES_WHOLE

Tell = Callable[[Scope, Record], None]


class Watched:
    """An application in front of another."""

    def __init__(self, app: ASGIApp, tell: Sequence[Tell], begin: Tell | None = None) -> None:
        """tell: of each request that was answered. begin: of each that comes."""
        self._app = app
        self._tell = tell
        self._begin = begin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and tell of it however it ends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = scope[RECORD] = Record(perf_counter())
        if self._begin is not None:
            self._begin(scope, record)
        if (writes_whole := scope.get(WRITES_WHOLE)) is not None:

            def written(status: int, response: bytes) -> bool:
                if not writes_whole(status, response):
                    return False
                record.status, record.bytes_out = status, len(response) - response.index(b"\r\n\r\n") - 4
                return True

            scope[WRITES_WHOLE] = written

        async def received() -> Message:
            message = await receive()
            record.bytes_in += len(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            record.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, received, sent)
        finally:
            record.ended = perf_counter()
            for tell in self._tell:
                tell(scope, record)
