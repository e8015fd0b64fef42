"""Who is let in, in which order, and who need not be computed any more."""

import asyncio
import gc
import weakref
from time import sleep

import numpy as np
import pytest

from service import request_queue
from service.batcher import Batcher
from service.call import Call
from service.errors import ClientGoneError, DeadlineError, InferenceError, QueueFullError
from service.protocol import Arrays
from tests.service.batchers import HeldRunner, batcher, queued, rows

URGENT = {"is_urgent": True}


def call(timeout_s: float = 60, *, is_urgent: bool = False) -> Call:
    made = Call(timeout_s)
    made.ask(None, is_urgent=is_urgent)
    return made


async def held(served: Batcher, runner: HeldRunner) -> asyncio.Task[Arrays]:
    """A request that runs, so that others have to wait."""
    running = asyncio.create_task(served.submit(rows(1), call()))
    await runner.started.wait()
    return running


async def order_of(runner: HeldRunner, served: Batcher, *calls: Call) -> list[float]:
    """The first number of each request in the order of their runs; the n-th request is full of n."""
    running = await held(served, runner)
    waiting = await queued(*(served.submit(rows(1, float(n)), each) for n, each in enumerate(calls)))
    runner.release()
    await asyncio.gather(running, *waiting)
    return [float(value) for value in runner.values[1:]]


async def test_urgent_requests_run_first_and_each_kind_in_its_order() -> None:
    runner = HeldRunner()
    async with batcher(runner.run, max_batch_size=1) as served:
        order = await order_of(runner, served, call(), call(), call(**URGENT), call(), call(**URGENT))
    assert order == [2, 4, 0, 1, 3]


async def test_what_has_waited_for_long_is_not_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_queue, "HEAD_START_S", 0)  # as if the first two had waited for that long
    runner = HeldRunner()
    async with batcher(runner.run, max_batch_size=1) as served:
        order = await order_of(runner, served, call(), call(), call(**URGENT), call(), call(**URGENT))
    assert order == [0, 1, 2, 3, 4]


async def test_more_bytes_than_may_wait_are_refused_at_once_but_one_request_never_is() -> None:
    runner = HeldRunner()
    async with batcher(runner.run, max_queue_bytes=20) as served:  # a row has 8
        running = await held(served, runner)
        large = await queued(served.submit(rows(4), call()))
        with pytest.raises(
            QueueFullError,
            match="model m: requests of 32 bytes are waiting, this one has 8, at most 20 wait .*MAX_QUEUE_BYTES",
        ):
            await served.submit(rows(1), call())
        runner.release()
        await asyncio.gather(running, *large)
        assert (await served.submit(rows(1), call()))["y"].shape == (1, 2)


async def test_a_full_queue_is_known_before_a_body_is_read() -> None:
    runner = HeldRunner()
    async with batcher(runner.run, max_queue_size=1) as served:
        running = await held(served, runner)
        served.check()
        waiting = await queued(served.submit(rows(1), call()))
        with pytest.raises(QueueFullError, match="1 requests are waiting"):
            served.check()
        runner.release()
        await asyncio.gather(running, *waiting)
        served.check()


async def test_a_request_whose_time_is_over_is_not_computed() -> None:
    runner = HeldRunner()
    async with batcher(runner.run) as served:
        running = await held(served, runner)
        with pytest.raises(DeadlineError, match="no answer within 20 ms"):
            await served.submit(rows(3), call(0.02))
        with pytest.raises(DeadlineError):
            await served.submit(rows(5), call(0))
        runner.release()
        await running
        await served.submit(rows(2), call())
    assert runner.batch_rows == [1, 2]


async def test_an_answer_that_comes_too_late_is_none() -> None:
    runner = HeldRunner()
    async with batcher(runner.run) as served:
        with pytest.raises(DeadlineError):
            await served.submit(rows(3), call(0.02))  # it is running
        runner.release()
        assert (await served.submit(rows(2), call()))["y"].shape == (2, 2)


async def test_an_answer_that_is_there_too_late_is_none_either() -> None:
    async def run(inputs: Arrays) -> Arrays:
        sleep(0.03)  # noqa: ASYNC251  # it holds up the event loop, and with it the timer
        return {"y": inputs["x"]}

    async with batcher(run) as served:
        with pytest.raises(DeadlineError):
            await served.submit(rows(1), call(0.02))


async def test_a_request_can_shorten_its_time_and_not_lengthen_it() -> None:
    asked = Call(1.0)
    asked.ask(2.0, is_urgent=False)
    assert asked.timeout_s == 1.0
    asked.ask(0.5, is_urgent=False)
    assert asked.timeout_s == 0.5
    assert asked.deadline == asked.arrived + 0.5


async def test_a_client_that_leaves_costs_no_run_and_no_place() -> None:
    runner, leaving = HeldRunner(), call()
    async with batcher(runner.run, max_queue_size=1) as served:
        running = await held(served, runner)
        (left,) = await queued(served.submit(rows(3), leaving))
        leaving.leave()
        with pytest.raises(ClientGoneError):
            await left
        waiting = await queued(served.submit(rows(2), call()))
        with pytest.raises(ClientGoneError):
            await served.submit(rows(4), leaving)  # it left while its body was read
        runner.release()
        await asyncio.gather(running, *waiting)
    assert runner.batch_rows == [1, 2]


async def test_the_tensors_of_a_request_that_fails_are_free_at_once() -> None:
    runner = HeldRunner()
    gc.disable()  # it would find them later, and under overload too late
    try:
        async with batcher(runner.run) as served:
            running = await held(served, runner)
            inputs = rows(3)
            tensor = weakref.ref(inputs["x"])
            waiting = Batcher.submit(served, inputs, call(0.01))  # the tests' own would hold it
            del inputs
            with pytest.raises(DeadlineError):
                await waiting
            runner.release()
            assert tensor() is None
            await running
    finally:
        gc.enable()


class Poisoned:
    """A run with a NaN in it fails."""

    def __init__(self) -> None:
        self.batch_rows: list[int] = []

    async def run(self, inputs: Arrays) -> Arrays:
        self.batch_rows.append(len(inputs["x"]))
        await asyncio.sleep(0)
        if np.isnan(inputs["x"]).any():
            raise RuntimeError("poisoned")
        return {"y": inputs["x"] * 2}


async def test_a_request_that_makes_a_run_fail_fails_alone() -> None:
    model = Poisoned()
    async with batcher(model.run) as served:
        good, bad, also_good = await queued(
            served.submit(rows(2, 1.0), call()),
            served.submit(rows(1, np.nan), call()),
            served.submit(rows(3, 2.0), call()),
        )
        with pytest.raises(InferenceError):
            await bad
        assert (await good)["y"].tolist() == [[2.0, 2.0]] * 2
        assert (await also_good)["y"].tolist() == [[4.0, 4.0]] * 3
    assert model.batch_rows == [6, 2, 1, 3]


def test_a_request_in_a_batch_is_looked_for_without_a_look_at_its_numbers() -> None:
    class Unprintable:
        def __repr__(self) -> str:
            raise AssertionError("a megabyte of numbers would become text")

    queue = request_queue.RequestQueue("m", max_requests=2, max_bytes=100)
    future = asyncio.Future[Arrays](loop=asyncio.new_event_loop())
    pending = queue.add(Unprintable(), 1, 8, None, is_urgent=False, future=future)
    assert queue.take(1) == [pending]
    assert not queue.discard(pending)
    future.get_loop().close()
