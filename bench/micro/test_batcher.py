"""What the batcher adds to a run: requests that come one after the other, and as many as are merged."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from service.batcher import Batcher
from service.call import Call
from service.metrics import Metrics
from service.protocol import Arrays
from service.runtime import OnnxModel

ROW = {"x": np.zeros((1, 32, 256), "f4")}


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = uvloop.new_event_loop()
    yield made
    made.close()


@pytest.mark.parametrize("at_once", [1, 16])
@pytest.mark.parametrize("threads", [False, True], ids=["at once", "in threads"])
def test_submit(
    benchmark: BenchmarkFixture,
    loop: asyncio.AbstractEventLoop,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
    threads: bool,
) -> None:
    """The run takes no time; with threads it has the way to one and back."""
    monkeypatch.setattr("service.runtime.SHORT_RUN_S", 0)
    model = OnnxModel("m", [lambda inputs: {"y": inputs["x"]}] * 2)

    async def run(inputs: Arrays) -> Arrays:
        return {"y": inputs["x"]}

    batcher = Batcher(
        "m",
        model.run if threads else run,
        Metrics().of_model("m", "1"),
        merges=True,
        instances=2,
        max_batch_size=64,
        max_queue_delay_ms=0,
        max_queue_size=at_once,
        max_queue_bytes=2**30,
    )

    async def start() -> None:
        batcher.start()

    async def submit() -> list[Arrays]:
        return await asyncio.gather(*(batcher.submit(ROW, Call(60)) for _ in range(at_once)))

    loop.run_until_complete(start())
    answers = benchmark(lambda: loop.run_until_complete(submit()))
    loop.run_until_complete(batcher.close())
    model.close()
    assert [answer["y"].shape for answer in answers] == [(1, 32, 256)] * at_once
