import asyncio
import math
from collections.abc import Sequence

import numpy as np
import pytest

from service.batcher import Batcher
from service.errors import InferenceError, ModelNotReadyError, QueueFullError
from service.protocol import Arrays
from tests.service.batchers import HeldRunner, Observed, batcher, queued, rows


@pytest.fixture(autouse=True)
def _no_run_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A held run lasts as long as the machine has other things to do; that must not decide what is merged behind it."""
    monkeypatch.setattr("service.batcher.LONG_ENOUGH_S", math.inf)


async def test_waiting_requests_share_one_run() -> None:
    runner = HeldRunner()
    async with batcher(runner.run) as served:
        first = asyncio.create_task(served.submit(rows(1)))
        await runner.started.wait()
        others = await queued(*(served.submit(rows(2)) for _ in range(3)))
        runner.release()
        await asyncio.gather(first, *others)
    assert runner.batch_rows == [1, 6]


async def test_every_caller_gets_its_own_rows() -> None:
    runner = HeldRunner()
    async with batcher(runner.run) as served:
        tasks = [asyncio.create_task(served.submit(rows(n, value=n))) for n in (1, 2, 3, 4)]
        await runner.started.wait()
        runner.release()
        answers = await asyncio.gather(*tasks)
    for n, answer in zip((1, 2, 3, 4), answers, strict=True):
        assert np.array_equal(answer["y"], np.full((n, 2), 2 * n, "f4"))


async def test_a_request_that_does_not_fit_waits_and_none_overtakes_it() -> None:
    runner = HeldRunner()
    async with batcher(runner.run) as served:
        first = asyncio.create_task(served.submit(rows(1)))
        await runner.started.wait()
        others = await queued(*(served.submit(rows(n)) for n in (5, 4, 1)))
        runner.release()
        await asyncio.gather(first, *others)
    assert runner.batch_rows == [1, 5, 5]  # 5, then 4 + 1: the single row did not slip in beside the 5


async def test_a_request_of_more_rows_than_a_batch_runs_alone() -> None:
    runner = HeldRunner()
    async with batcher(runner.run) as served:
        first = asyncio.create_task(served.submit(rows(1)))
        await runner.started.wait()
        others = await queued(*(served.submit(rows(n)) for n in (20, 1)))
        runner.release()
        answers = await asyncio.gather(first, *others)
    assert runner.batch_rows == [1, 20, 1]
    assert answers[1]["y"].shape == (20, 2)


async def test_only_equal_shapes_and_datatypes_are_merged() -> None:
    runner = HeldRunner()
    async with batcher(runner.run) as served:
        first = asyncio.create_task(served.submit(rows(1)))
        await runner.started.wait()
        doubles = {"x": np.ones((1, 2), "f8")}
        others = await queued(*map(served.submit, (rows(1), rows(1, width=3), doubles, rows(2), rows(2, width=3))))
        runner.release()
        answers = await asyncio.gather(first, *others)
    assert runner.batch_rows == [1, 3, 3, 1]
    assert [answer["y"].shape for answer in answers] == [(1, 2), (1, 2), (1, 3), (1, 2), (2, 2), (2, 3)]
    assert answers[3]["y"].dtype == np.float64


async def test_requests_of_a_model_without_a_batch_axis_run_one_by_one() -> None:
    runner = HeldRunner()
    async with batcher(runner.run, merges=False) as served:
        tasks = await queued(*(served.submit(rows(3)) for _ in range(3)))
        runner.release()
        answers = await asyncio.gather(*tasks)
    assert runner.batch_rows == [3, 3, 3]
    assert all(answer["y"].shape == (3, 2) for answer in answers)


async def test_instances_run_side_by_side() -> None:
    runner = HeldRunner()
    async with batcher(runner.run, instances=2, max_batch_size=1) as served:
        tasks = await queued(*(served.submit(rows(1)) for _ in range(3)))
        while len(runner.batch_rows) < 2:  # noqa: ASYNC110  # turns of the loop, not a time
            await asyncio.sleep(0)
        assert runner.batch_rows == [1, 1]  # the third waits: two are running
        runner.release()
        await asyncio.gather(*tasks)
    assert runner.batch_rows == [1, 1, 1]


async def test_full_queue_refuses_at_once() -> None:
    runner = HeldRunner()
    async with batcher(runner.run, max_queue_size=2) as served:
        running = asyncio.create_task(served.submit(rows(1)))
        await runner.started.wait()
        waiting = await queued(served.submit(rows(1)), served.submit(rows(1)))
        with pytest.raises(QueueFullError, match="model m: 2 requests are waiting .*MAX_QUEUE_SIZE"):
            await served.submit(rows(1))
        runner.release()
        await asyncio.gather(running, *waiting)
    assert runner.batch_rows == [1, 2]


async def test_callers_that_left_cost_no_compute_and_hold_up_nobody() -> None:
    runner, observed = HeldRunner(), Observed()
    async with batcher(runner.run, observed, max_queue_size=3) as served:
        running = asyncio.create_task(served.submit(rows(1)))
        await runner.started.wait()
        leaving, staying, also_leaving = await queued(*(served.submit(rows(n)) for n in (2, 3, 1)))
        leaving.cancel()
        also_leaving.cancel()
        await asyncio.sleep(0)
        runner.release()
        await asyncio.gather(running, staying)
    assert runner.batch_rows == [1, 3]
    assert leaving.cancelled()
    assert also_leaving.cancelled()
    assert observed.pending == 0


async def test_a_caller_that_leaves_during_the_run_does_not_hurt_the_others() -> None:
    runner = HeldRunner()
    async with batcher(runner.run) as served:
        leaving, staying = await queued(served.submit(rows(1)), served.submit(rows(2, value=5)))
        await runner.started.wait()
        leaving.cancel()
        await asyncio.sleep(0)
        runner.release()
        assert np.array_equal((await staying)["y"], np.full((2, 2), 10, "f4"))


@pytest.mark.parametrize("shape", [(), (5,), (4, 2)])
async def test_rows_that_do_not_add_up_reach_no_caller(shape: tuple[int, ...]) -> None:
    async def run(inputs: Arrays) -> Arrays:
        return {"y": np.zeros(shape)}

    async with batcher(run) as served:
        tasks = await queued(served.submit(rows(1)), served.submit(rows(2)))
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, InferenceError) for result in results)


async def test_what_the_runtime_says_of_a_failing_run_is_for_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def run(inputs: Arrays) -> Arrays:
        if (inputs["x"] == 13).any():
            raise RuntimeError("the runtime's own words")
        return {"y": inputs["x"]}

    async with batcher(run, max_batch_size=2) as served:
        tasks = await queued(*(served.submit(rows(1, value=value)) for value in (13, 1, 2, 3)))
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [InferenceError, dict, dict, dict]
    assert "the runtime's own words" not in str(results[0])
    assert "the runtime's own words" in caplog.text


async def test_a_queue_delay_waits_for_more_rows_and_no_longer_than_a_full_batch() -> None:
    runner = HeldRunner()
    runner.release()
    async with batcher(runner.run, max_queue_delay_ms=60_000, max_batch_size=4) as served:
        tasks = await queued(served.submit(rows(1)), served.submit(rows(2)))
        assert runner.batch_rows == []  # a minute to go, or one more row
        tasks += await queued(served.submit(rows(1)))
        await asyncio.gather(*tasks)
    assert runner.batch_rows == [4]


async def test_a_queue_delay_ends() -> None:
    runner = HeldRunner()
    runner.release()
    async with batcher(runner.run, max_queue_delay_ms=1) as served:
        await served.submit(rows(1))
    assert runner.batch_rows == [1]


async def test_closing_answers_what_is_queued_and_refuses_what_comes() -> None:
    runner = HeldRunner()
    served = batcher(runner.run, max_queue_delay_ms=60_000)
    served.start()
    waiting = await queued(served.submit(rows(1)), served.submit(rows(2)))
    closing = asyncio.create_task(served.close())
    await asyncio.sleep(0)
    with pytest.raises(ModelNotReadyError, match="model m is being closed"):
        await served.submit(rows(1))
    runner.release()
    answers = await asyncio.gather(*waiting)
    await closing
    assert [len(answer["y"]) for answer in answers] == [1, 2]


async def test_every_batch_and_every_request_is_observed() -> None:
    runner, observed = HeldRunner(), Observed()
    async with batcher(runner.run, observed) as served:
        first = asyncio.create_task(served.submit(rows(1)))
        await runner.started.wait()
        others = await queued(*(served.submit(rows(2)) for _ in range(3)))
        assert observed.pending == 4
        runner.release()
        await asyncio.gather(first, *others)
    assert observed.batches == [(1, 1), (6, 3)]
    assert observed.pending == 0


async def test_callers_that_left_make_room_for_others() -> None:
    runner = HeldRunner()
    async with batcher(runner.run, max_queue_size=2) as served:
        running = asyncio.create_task(served.submit(rows(1)))
        await runner.started.wait()
        leaving = await queued(served.submit(rows(1)), served.submit(rows(1)))
        for task in leaving:
            task.cancel()
        await asyncio.sleep(0)
        staying = await queued(served.submit(rows(2)), served.submit(rows(3)))
        runner.release()
        await asyncio.gather(running, *staying)
    assert runner.batch_rows == [1, 5]


@pytest.mark.parametrize("width", [2, 3])
async def test_rows_that_cannot_share_the_run_do_not_end_the_wait(width: int) -> None:
    runner = HeldRunner()
    runner.release()
    async with batcher(runner.run, max_queue_delay_ms=60_000, max_batch_size=8) as served:
        first = await queued(served.submit(rows(1)))
        others = await queued(served.submit(rows(7, width=width)))
        await asyncio.sleep(0)
        assert runner.batch_rows == ([8] if width == 2 else [])
    await asyncio.gather(*first, *others)


async def test_a_queue_of_callers_that_left_runs_nothing() -> None:
    runner = HeldRunner()
    runner.release()
    async with batcher(runner.run, max_queue_delay_ms=60_000) as served:
        (leaving,) = await queued(served.submit(rows(1)))
        leaving.cancel()
        served_next = asyncio.create_task(served.submit(rows(8)))
        await served_next
    assert runner.batch_rows == [8]


async def test_an_observer_that_fails_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Observed):
        def observe_batch(self, rows: int, queue_seconds: Sequence[float], compute_seconds: float) -> None:
            raise RuntimeError("no room for one more label")

    runner = HeldRunner()
    runner.release()
    async with batcher(runner.run, Failing()) as served:
        for _ in range(2):
            assert len((await served.submit(rows(3)))["y"]) == 3
    assert "no room for one more label" in caplog.text


async def test_a_failed_run_is_not_counted_as_computed() -> None:
    async def run(inputs: Arrays) -> Arrays:
        raise RuntimeError

    observed = Observed()
    async with batcher(run, observed) as served:
        with pytest.raises(InferenceError):
            await served.submit(rows(3))
    assert observed.batches == []


class SlowRunner:
    """A model whose runs of several rows take long, and so are worth a moment's wait."""

    def __init__(self) -> None:
        self.batch_rows: list[int] = []

    async def run(self, inputs: Arrays) -> Arrays:
        self.batch_rows.append(len(inputs["x"]))
        await asyncio.sleep(0.4 if len(inputs["x"]) > 1 else 0)
        return {"y": inputs["x"]}


async def returning(served: Batcher, times: int, pause: float) -> None:
    """A client that waits for its answer before it asks again."""
    for _ in range(times):
        await served.submit(rows(1))
        await asyncio.sleep(pause)


async def test_clients_that_return_one_after_the_other_share_the_next_run_again() -> None:
    runner = SlowRunner()
    async with batcher(runner.run) as served:
        await asyncio.gather(*(returning(served, 3, pause=0.002 * number) for number in range(4)))
    assert runner.batch_rows == [4, 4, 4]


async def test_clients_that_do_not_return_are_waited_for_for_a_moment_only() -> None:
    runner = SlowRunner()
    async with batcher(runner.run) as served:
        await asyncio.gather(*(returning(served, 1, pause=0) for _ in range(4)))
        async with asyncio.timeout(0.2):  # a tenth of which is the moment
            await served.submit(rows(1))
    assert runner.batch_rows == [4, 1]


async def test_a_lone_client_is_never_made_to_wait() -> None:
    runner = SlowRunner()
    async with batcher(runner.run) as served:
        await served.submit(rows(1))
        (again,) = await queued(served.submit(rows(1)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert again.done()


async def test_idle_instances_share_what_waits() -> None:
    runner = HeldRunner()
    async with batcher(runner.run, instances=2, max_batch_size=64) as served:
        waiting = await queued(*(served.submit(rows(1)) for _ in range(6)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert sorted(runner.batch_rows) == [3, 3]
        runner.release()
        await asyncio.gather(*waiting)


async def test_a_delay_fills_batches_also_beside_an_idle_instance() -> None:
    runner = HeldRunner()
    runner.release()
    async with batcher(runner.run, instances=2, max_batch_size=8, max_queue_delay_ms=5_000) as served:
        async with asyncio.timeout(2):
            await asyncio.gather(*(served.submit(rows(1)) for _ in range(8)))
    assert runner.batch_rows == [8]


async def test_a_batch_is_full_when_it_is_though_others_have_left() -> None:
    runner = HeldRunner()
    runner.release()
    async with batcher(runner.run, max_batch_size=8, max_queue_delay_ms=5_000) as served:
        (first,) = await queued(served.submit(rows(1)))
        (left,) = await queued(served.submit(rows(20, width=3)))
        await asyncio.sleep(0)
        left.cancel()
        async with asyncio.timeout(2):
            await asyncio.gather(first, *(served.submit(rows(1)) for _ in range(7)))
    assert runner.batch_rows == [8]


async def test_a_lone_run_is_told_apart_from_those_beside_others() -> None:
    held, alone = HeldRunner(), HeldRunner()
    async with batcher(held.run, run_alone=alone.run, instances=2) as served:
        first = asyncio.create_task(served.submit(rows(1)))
        await alone.started.wait()
        second = asyncio.create_task(served.submit(rows(1)))
        await held.started.wait()
        alone.release()
        held.release()
        await asyncio.gather(first, second)
    assert (alone.batch_rows, held.batch_rows) == ([1], [1])


@pytest.mark.parametrize(("seconds_a_row", "long_enough", "at_most"), [(0.02, 0.03, 2), (0, 10, 16)])
async def test_no_run_is_longer_than_pays_and_short_ones_take_all_that_waits(
    seconds_a_row: float, long_enough: float, at_most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.batcher.LONG_ENOUGH_S", long_enough)
    batch_rows: list[int] = []

    async def run(inputs: Arrays) -> Arrays:
        batch_rows.append(len(inputs["x"]))
        await asyncio.sleep(len(inputs["x"]) * seconds_a_row)
        return {"y": inputs["x"]}

    async with batcher(run, max_batch_size=64) as served:
        await served.submit(rows(1))
        await asyncio.gather(*(served.submit(rows(1)) for _ in range(16)))
    assert sum(batch_rows) == 17
    assert max(batch_rows) <= at_most
    assert seconds_a_row or batch_rows == [1, 16]
