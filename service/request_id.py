"""A request's id: the client's own or a new one, in its answer's ``X-Request-ID`` and in all that is logged of it."""

import os
import re
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from itertools import count

HEADER = b"x-request-id"
REQUEST_ID = "normserve.request_id"  # of a scope, as bytes
# UUIDs, W3C trace ids and the ids of common proxies fit; nothing that could break a line or a quoted string does.
SANE = re.compile(rb"[A-Za-z0-9._:=/+@-]{1,128}")

current: ContextVar[bytes] = ContextVar("request_id", default=b"")


def new_ids() -> Iterator[bytes]:
    """Ids for the requests of one connection: its own random part, and the request's number on it.

    A random number a request would take ten times as long; one a process would be shared by those it forks.
    """
    return map(f"{os.urandom(8).hex()}-%d".encode().__mod__, count(1))


def id_of(headers: Iterable[tuple[bytes, bytes]], others: Iterator[bytes]) -> bytes:
    """The first sane id among the headers, or the next of the others. headers: as ASGI has them."""
    for name, value in headers:
        if name == HEADER and SANE.fullmatch(value):
            return value
    return next(others)
