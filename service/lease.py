"""A model that may be taken out of service while requests are under way on it."""

import asyncio

from service.served import Served


class Lease:
    """``with lease as model:`` holds a model for one request; it is closed when nobody does any more.

    Counted, since a request is nowhere else to be seen between its arrival and the batcher's queue: its body has yet to
    come and to be decoded, and a model closed meanwhile would refuse it. Only the event loop's thread counts.
    """

    __slots__ = ("_holders", "_is_free", "model")

    def __init__(self, model: Served) -> None:
        self.model = model
        self._holders = 0
        self._is_free: asyncio.Event | None = None

    def __enter__(self) -> Served:
        self._holders += 1
        return self.model

    def __exit__(self, *_: object) -> None:
        self._holders -= 1
        if self._is_free is not None and not self._holders:
            self._is_free.set()

    async def retire(self) -> None:
        """Wait until nobody holds the model, then close it; whoever calls this has seen to it that nobody new comes."""
        if self._holders:
            self._is_free = asyncio.Event()
            await self._is_free.wait()
        await self.model.close()
