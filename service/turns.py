"""Work that needs memory, so much of it at a time as there is room for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """``async with turns.of(nbytes)`` waits until there is room; one alone always fits.

    First come, first served: or the large would wait for as long as small ones come.
    """

    def __init__(self, max_bytes: int) -> None:
        self.nbytes = 0
        self._max_bytes = max_bytes
        self._next = asyncio.Lock()  # held by the first of those that wait
        self._is_less = asyncio.Event()

    @asynccontextmanager
    async def of(self, nbytes: int) -> AsyncIterator[None]:
        """Room for so much inside."""
        async with self._next:
            while self.nbytes and self.nbytes + nbytes > self._max_bytes:
                self._is_less.clear()
                await self._is_less.wait()
            self.nbytes += nbytes
        try:
            yield
        finally:
            self.nbytes -= nbytes
            self._is_less.set()
