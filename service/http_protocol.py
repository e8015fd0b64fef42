"""uvicorn's HTTP protocol, whose own refusals are JSON like everybody else's."""

from http import HTTPStatus

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


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
