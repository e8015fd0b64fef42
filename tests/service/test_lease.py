"""What serves a model is closed when nobody holds it any more, and not before."""

import asyncio
from contextlib import suppress
from typing import Any, cast

from service.lease import Lease
from service.served import Served


class Model:
    """Counts how often it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


def lease_of(model: Model) -> Lease:
    return Lease(cast(Served, model))


async def test_what_nobody_holds_is_closed_at_once() -> None:
    model = Model()
    await lease_of(model).retire()
    assert model.closed == 1


async def test_it_is_closed_once_the_last_holder_has_gone() -> None:
    model: Any = Model()
    lease = lease_of(model)
    with lease as first:
        assert first is model
        with suppress(ValueError), lease:
            retiring = asyncio.create_task(lease.retire())
            await asyncio.sleep(0)
            raise ValueError("bad input")
        await asyncio.sleep(0)
        assert (model.closed, retiring.done()) == (0, False)
    await retiring
    assert model.closed == 1
