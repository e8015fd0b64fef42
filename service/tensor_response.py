"""A response of several parts, which goes out without being joined when it is large."""

from collections.abc import Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

CHUNK_BYTES = 2**18  # at once to the socket; the loop is free between two of them


class TensorResponse(Response):
    """JSON and the tensors behind it, as they lie in memory."""

    def __init__(self, parts: Sequence[bytes | memoryview], media_type: str, headers: dict[str, str]) -> None:
        size = sum(map(len, parts))
        self._parts = [] if size <= CHUNK_BYTES else parts
        if self._parts:
            super().__init__(media_type=media_type, headers={**headers, "content-length": str(size)})
        else:
            super().__init__(b"".join(parts), media_type=media_type, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head, then each part in chunks."""
        if not self._parts:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for part in self._parts:
            for start in range(0, len(part), CHUNK_BYTES):
                body = part[start : start + CHUNK_BYTES]
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
