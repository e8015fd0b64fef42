"""Small work is done where it comes up, large work in a thread, so that nobody else waits for it."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from service.protocol import Arrays

LARGE_BYTES = 2**20  # what takes a core a millisecond or two; less is done sooner than handed over
# Times as much as binary, for a byte: JSON as Python lists, and where its numbers are read straight into an array.
JSON_COSTS, SIMD_JSON_COSTS = 8, 2

P = ParamSpec("P")
R = TypeVar("R")


async def off_the_loop(size: int, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """``function(*args)``, in a thread when it has more than LARGE_BYTES of binary, or what costs as much, to do."""
    if size <= LARGE_BYTES:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


def size_of(arrays: Arrays) -> int:
    """Bytes in all of them."""
    return sum(array.nbytes for array in arrays.values())
