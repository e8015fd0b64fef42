"""Large JSON tensors, read and written a piece at a time.

orjson keeps the interpreter's lock until it is through with what it was given: a tensor of 50 MiB would keep every
other request waiting for 0.4 s, whatever thread it is read in. Between two pieces the lock is given up for long enough
that another thread can take it: numpy lets go of it so often and so shortly that a thread which waits for it is woken
each time too late, and never asks for it (0.6 s were measured).
"""

import re
import secrets
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import orjson

from service.protocol import Array, JsonNumbers

PIECE_BYTES = 2**17  # read in two or three milliseconds
PIECE_NUMBERS = 2**15  # written in one
_GIVE_WAY_S = 1e-5  # asked for; the system makes it about 60 us
_OPENING = re.compile(rb"\s*:\s*\[")
_OPEN, _CLOSE, _COMMA, _QUOTE = b'[],"'


def cut_out(body: bytes | bytearray, length: int, key: str) -> tuple[bytes, dict[str, JsonNumbers]]:
    """The first ``length`` bytes with each large list of ``key`` replaced by a name, and what stood there, by name.

    A name is one that no client can know, so none can refer to it.
    """
    document = memoryview(body)[:length]
    kept, found, position, at = list[bytes](), dict[str, JsonNumbers](), 0, -1
    quoted = b'"%b"' % key.encode()
    while (at := body.find(quoted, at + 1, length)) >= 0:
        opening = _OPENING.match(document, at + len(quoted))
        if opening is None or (numbers := _numbers(document, opening.end())) is None:
            continue
        name = secrets.token_hex(16)
        kept += [bytes(document[position : opening.end() - 1]), b'"%b"' % name.encode()]
        found[name] = numbers
        position = at = opening.end() + len(numbers.text) + 1
    return b"".join((*kept, document[position:])), found


def _numbers(document: memoryview, start: int) -> JsonNumbers | None:
    """The list that begins before ``start``; None when it is small, or has anything but numbers in it."""
    cuts, depth = [-1], 1
    for offset in range(start, len(document), PIECE_BYTES):
        time.sleep(_GIVE_WAY_S)
        window = np.frombuffer(document[offset : offset + PIECE_BYTES], "u1")
        depths = depth + np.cumsum((window == _OPEN).astype("i1") - (window == _CLOSE), dtype="i4")
        ends = np.flatnonzero(depths == 0)
        inside = window[: ends[0]] if len(ends) else window
        if (inside == _QUOTE).any() or (inside == ord("{")).any():
            return None
        if len(ends):
            if len(cuts) == 1:
                return None
            end = offset - start + int(ends[0])
            return JsonNumbers(document[start : start + end], [*cuts, end])
        commas = np.flatnonzero((window == _COMMA) & (depths == 1))
        if len(commas):
            cuts.append(offset - start + int(commas[-1]))
        depth = int(depths[-1])
    return None


def pieces(numbers: JsonNumbers) -> Iterator[bytes]:
    """The outer list as several, each the text of a list with some of its elements."""
    for before, end in pairwise(numbers.cuts):
        yield b"".join((b"[", numbers.text[before + 1 : end], b"]"))
        time.sleep(_GIVE_WAY_S)


def elements(piece: bytes) -> list[Any]:
    """Of one of them. Raises orjson.JSONDecodeError."""
    found: list[Any] = orjson.loads(piece)
    if not found:
        raise orjson.JSONDecodeError("an element is missing", "", 0)
    return found


def written(array: Array) -> Iterator[bytes]:
    """An array as the text of a JSON list, nested as its axes are."""
    rows = max(1, PIECE_NUMBERS // (array.size // len(array)))
    for start in range(0, len(array), rows):
        if start:
            time.sleep(_GIVE_WAY_S)  # there are several pieces only in a thread: see off_the_loop
        piece = orjson.dumps(array[start : start + rows], option=orjson.OPT_SERIALIZE_NUMPY)
        yield (b"[" if start == 0 else b",") + piece[1:-1]
    yield b"]"
