"""A request's body, counted while it arrives and while it inflates."""

import zlib
from collections.abc import Mapping

from starlette.types import Receive

from service.errors import BodyTooLargeError, ClientGoneError, InvalidInputError, UnsupportedEncodingError
from service.off_the_loop import off_the_loop

INFLATES_TO = 1000  # bytes a byte may become: what is small as sent need not be small
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # zlib reads either header itself


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, max_body_bytes: int) -> bytes | bytearray:
    """The whole body, inflated when it was sent as gzip or deflate.

    headers: as ASGI has them, by their lower-case name.
    Raises BodyTooLargeError as soon as more than ``max_body_bytes`` have come or have been inflated,
    UnsupportedEncodingError, InvalidInputError for damaged compressed data, ClientGoneError.
    """
    encoding = _encoding(headers[b"content-encoding"]) if b"content-encoding" in headers else "identity"
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared[:20]) > max_body_bytes:
        raise BodyTooLargeError(max_body_bytes)  # before a byte of it is read
    body: bytes | bytearray = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the client left before its body had come")
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > max_body_bytes:
            raise BodyTooLargeError(max_body_bytes)
        if not body:
            body = chunk  # of a small body all there is
        elif isinstance(body, bytearray):
            body += chunk  # grows in place: joining 64 MiB of chunks at the end would keep everybody waiting
        else:
            body = bytearray(body) + chunk
        more = message.get("more_body", False)
    if encoding == "identity":
        return body
    return await off_the_loop(INFLATES_TO * len(body), _inflate, body, encoding, max_body_bytes)


def _encoding(header: bytes) -> str:
    encoding = header.decode("latin-1").strip().lower() or "identity"
    if encoding not in ("identity", "gzip", "deflate"):
        raise UnsupportedEncodingError(f"Content-Encoding is {encoding[:40]!r}, it must be identity, gzip or deflate")
    return encoding


def _inflate(body: bytes | bytearray, encoding: str, max_body_bytes: int) -> bytes:
    inflater = zlib.decompressobj(GZIP_OR_ZLIB)
    try:
        inflated = inflater.decompress(body, max_body_bytes + 1)
    except zlib.error as error:
        raise InvalidInputError(f"the body is not valid {encoding} data") from error
    if len(inflated) > max_body_bytes:
        raise BodyTooLargeError(max_body_bytes)
    if not inflater.eof or inflater.unused_data:
        raise InvalidInputError(f"the body is not one whole {encoding} stream")
    return inflated
