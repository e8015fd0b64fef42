"""The least an ASGI server can do with a request: read its body and send it back."""

from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The body, as it came."""
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
