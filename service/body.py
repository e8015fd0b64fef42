"""A request's body, counted while it arrives and while it inflates."""

import zlib

from starlette.requests import ClientDisconnect, Request

from service.errors import BodyTooLargeError, ClientGoneError, InvalidInputError, UnsupportedEncodingError
from service.off_the_loop import off_the_loop

INFLATES_TO = 1000  # bytes a byte may become: what is small as sent need not be small
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # zlib reads either header itself


async def read_body(request: Request, max_body_bytes: int) -> bytes | bytearray:
    """The whole body, inflated when it was sent as gzip or deflate.

    Raises BodyTooLargeError as soon as more than ``max_body_bytes`` have come or have been inflated,
    UnsupportedEncodingError, InvalidInputError for damaged compressed data, ClientGoneError.
    """
    encoding = request.headers.get("content-encoding", "").strip().lower() or "identity"
    if encoding not in ("identity", "gzip", "deflate"):
        raise UnsupportedEncodingError(f"Content-Encoding is {encoding[:40]!r}, it must be identity, gzip or deflate")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_body_bytes:
        raise BodyTooLargeError(max_body_bytes)  # before a byte of it is read
    body = bytearray()  # grows in place: joining 64 MiB of chunks at the end would keep everybody waiting
    try:
        async for chunk in request.stream():
            if len(body) + len(chunk) > max_body_bytes:
                raise BodyTooLargeError(max_body_bytes)
            body += chunk
    except ClientDisconnect as error:
        raise ClientGoneError("the client left before its body had come") from error
    if encoding == "identity":
        return body
    return await off_the_loop(INFLATES_TO * len(body), _inflate, body, encoding, max_body_bytes)


def _inflate(body: bytearray, encoding: str, max_body_bytes: int) -> bytes:
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
