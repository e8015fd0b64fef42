"""A request's body, counted while it arrives and while it inflates."""

import zlib
from collections.abc import Mapping

from starlette.types import Receive

from service.bodies import UNCOUNTED_BYTES, Bodies
from service.call import Call
from service.errors import BodyTooLargeError, ClientGoneError, InvalidInputError, UnsupportedEncodingError
from service.off_the_loop import off_the_loop

INFLATES_TO = 1000  # bytes a byte may become: what is small as sent need not be small
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # zlib reads either header itself
PIECE_BYTES = 2**20  # inflated at a time: after each it is known how many there are


async def read_body(
    headers: Mapping[bytes, bytes], receive: Receive, max_bytes: int, call: Call, bodies: Bodies | None
) -> bytes | bytearray:
    """The whole body, inflated when it was sent as gzip or deflate.

    headers: as ASGI has them, by their lower-case name. bodies: where it is counted, for whoever asks to let go of;
    None: a body without tensors, too small to be counted.

    Raises BodyTooLargeError as soon as more than ``max_bytes`` have come or have been inflated, BodiesFullError as soon
    as all bodies have more than they may, UnsupportedEncodingError, InvalidInputError for damaged compressed data,
    ClientGoneError.
    """
    encoding = _encoding(headers[b"content-encoding"]) if b"content-encoding" in headers else "identity"
    declared = headers.get(b"content-length", b"")
    if declared.isdigit():  # refused before a byte of it is read
        size = int(declared[:20])
        if size > max_bytes:
            raise BodyTooLargeError(max_bytes, has_tensors=bodies is not None)
        if size > UNCOUNTED_BYTES and bodies is not None:
            bodies.check(call, size)
    body: bytes | bytearray = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the client left before its body had come")
        chunk: bytes = message.get("body", b"")
        size = len(body) + len(chunk)
        if size > max_bytes:
            raise BodyTooLargeError(max_bytes, has_tensors=bodies is not None)
        if size > UNCOUNTED_BYTES and bodies is not None:
            bodies.hold(call, size)
        if not body:
            body = chunk  # of a small body all there is
        elif isinstance(body, bytearray):
            body += chunk  # grows in place: joining 64 MiB of chunks at the end would keep everybody waiting
        else:
            body = bytearray(body) + chunk
        more = message.get("more_body", False)
    return body if encoding == "identity" else await _inflated(body, encoding, max_bytes, call, bodies)


def _encoding(header: bytes) -> str:
    encoding = header.decode("latin-1").strip().lower() or "identity"
    if encoding not in ("identity", "gzip", "deflate"):
        raise UnsupportedEncodingError(f"Content-Encoding is {encoding[:40]!r}, it must be identity, gzip or deflate")
    return encoding


async def _inflated(
    body: bytes | bytearray, encoding: str, max_bytes: int, call: Call, bodies: Bodies | None
) -> bytearray:
    """In pieces, each counted: a thousand times what was sent would be far too much, and in the end it is too late."""
    inflater, inflated = zlib.decompressobj(GZIP_OR_ZLIB), bytearray()
    for start in range(0, len(body) or 1, PIECE_BYTES):
        sent: memoryview | bytes = memoryview(body)[start : start + PIECE_BYTES]
        is_more = True
        while is_more:
            try:
                piece = await off_the_loop(INFLATES_TO * len(body), inflater.decompress, sent, PIECE_BYTES)
            except zlib.error as error:
                raise InvalidInputError(f"the body is not valid {encoding} data") from error
            if len(inflated) + len(piece) > max_bytes:
                raise BodyTooLargeError(max_bytes, has_tensors=bodies is not None)
            if bodies is not None:
                bodies.hold(call, len(body) + len(inflated) + len(piece))
            inflated += piece
            sent = inflater.unconsumed_tail
            is_more = bool(sent) or len(piece) == PIECE_BYTES  # the inflater may have more to say without more to read
        if inflater.eof:
            break
    if not inflater.eof or inflater.unused_data or start + PIECE_BYTES < len(body):
        raise InvalidInputError(f"the body is not one whole {encoding} stream")
    if bodies is not None:
        bodies.hold(call, len(inflated))
    return inflated
