"""Batchers to be tested, and what they run."""

import asyncio
from collections.abc import Sequence

import numpy as np

from service.batcher import Batcher
from service.call import Call
from service.protocol import Arrays


class HeldRunner:
    """A model that doubles ``x``; each run waits until it is released."""

    def __init__(self) -> None:
        self.batch_rows: list[int] = []
        self.values: list[float] = []  # the first of each run
        self.started = asyncio.Event()
        self._released = asyncio.Event()

    def release(self) -> None:
        self._released.set()

    async def run(self, inputs: Arrays) -> Arrays:
        self.batch_rows.append(len(inputs["x"]))
        self.values.append(float(inputs["x"].flat[0]))
        self.started.set()
        await self._released.wait()
        return {"y": inputs["x"] * 2}


class Observed:
    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self.pending = 0

    def observe_batch(self, rows: int, queue_seconds: Sequence[float], compute_seconds: float) -> None:
        assert compute_seconds >= 0
        assert all(seconds >= 0 for seconds in queue_seconds)
        self.batches.append((rows, len(queue_seconds)))

    def pending_changed(self, by: int) -> None:
        self.pending += by


def rows(count: int, value: float = 1.0, width: int = 2) -> Arrays:
    return {"x": np.full((count, width), value, "f4")}


class Patient(Batcher):
    """Its callers have time."""

    async def submit(self, inputs: Arrays, call: Call | None = None, nbytes: int | None = None) -> Arrays:
        return await super().submit(inputs, call or Call(60), nbytes)


def batcher(run, observer=None, **options) -> Batcher:
    defaults = {"merges": True, "instances": 1, "max_batch_size": 8, "max_queue_delay_ms": 0, "max_queue_size": 64}
    defaults["max_queue_bytes"] = 2**20
    return Patient("m", run, observer or Observed(), **(defaults | options))


async def queued(*coroutines) -> list[asyncio.Task[Arrays]]:
    """Tasks that have run up to their first wait: all of them stand in the queue."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.sleep(0)
    return tasks
