"""A response that is written whole when it is small, and without being joined when it is large."""

from collections.abc import Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

CHUNK_BYTES = 2**18  # at once to the socket; the loop is free between two of them
WRITES_WHOLE = "normserve.writes_whole"  # of a scope: a server that takes headers and body at once (http_protocol.py)


class WholeResponse(Response):
    """JSON and the tensors behind it, as they lie in memory; or an error.

    Its headers are written by hand: Starlette's own way of making them takes 6 us, an eighth of a small request.
    """

    def __init__(
        self,
        parts: Sequence[bytes | memoryview],
        media_type: bytes,
        header: tuple[bytes, bytes] | None = None,
        status: int = 200,
    ) -> None:
        """header: one beyond type and length; its name in lower case."""
        self._size = sum(map(len, parts))
        self._parts = parts
        self.status_code, self.background = status, None
        self.raw_headers = [(b"content-type", media_type), (b"content-length", b"%d" % self._size)]
        if header is not None:
            self.raw_headers.append(header)

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the whole at once where the server takes that; else the head, then each part in chunks."""
        if self._size <= CHUNK_BYTES:
            head = [b"%b: %b\r\n" % header for header in self.raw_headers]
            whole = b"".join((*head, b"\r\n", *self._parts))
            if WRITES_WHOLE in scope and scope[WRITES_WHOLE](self.status_code, whole):
                return
            self._parts = [b"".join(self._parts)]
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if len(self._parts) == 1 and len(self._parts[0]) <= CHUNK_BYTES:
            await send({"type": "http.response.body", "body": self._parts[0]})
            return
        for part in self._parts:
            for start in range(0, len(part), CHUNK_BYTES):
                body = part[start : start + CHUNK_BYTES]
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
