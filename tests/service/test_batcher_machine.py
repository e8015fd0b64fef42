"""The batcher under any sequence of arrivals, cancellations, deadlines, failures, reloads and shutdown."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.batcher import Batcher
from service.call import Call
from service.errors import (
    ClientGoneError,
    DeadlineError,
    InferenceError,
    ModelNotReadyError,
    QueueFullError,
    ServiceError,
)
from service.protocol import Array, Arrays
from tests.service.batchers import Observed

QUEUE_SIZE, QUEUE_BYTES = 6, 200
HURRIED_S = 0.004
TIMED = ("batcher", "call", "request_queue")


class Loop(asyncio.SelectorEventLoop):
    """Its time passes when it is told to, so that the same steps always have the same end."""

    now = 1000.0

    def time(self) -> float:
        return self.now


@dataclass
class Request:
    """Its rows are full of its number, so that every run tells who was in it."""

    number: int
    rows: int
    width: int
    call: Call
    is_poisoned: bool
    batcher: int
    task: asyncio.Task[Arrays] | None = None
    started: int | None = None  # the run it was in first

    @property
    def kind(self) -> tuple[Any, ...]:
        """Of requests of one kind none overtakes another."""
        return self.width, self.call.is_urgent, self.batcher


@dataclass
class Run:
    """A run of the model that has begun and waits to be let go."""

    inputs: Arrays
    let_go: asyncio.Event = field(default_factory=asyncio.Event)


class BatcherMachine(RuleBasedStateMachine):
    """The model: which requests there are, and which runs hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        self.clocks = [patch(f"service.{name}.perf_counter", self.loop.time) for name in TIMED]
        for clock in self.clocks:
            clock.start()
        self.requests: list[Request] = []
        self.runs: list[Run] = []
        self.run_count = 0
        self.batchers: list[Batcher] = []
        self.closing: list[asyncio.Task[None]] = []
        self.observed = Observed()
        self.wrong: list[AssertionError] = []

    @initialize(instances=st.integers(1, 3), most=st.integers(1, 5), delay_ms=st.sampled_from([0, 0, 2]))
    def start(self, instances: int, most: int, delay_ms: float) -> None:
        logging.disable(logging.CRITICAL)  # poisoned runs are logged with their traceback
        self.instances, self.most, self.delay_ms = instances, most, delay_ms
        self.reload()

    # ---- what may happen ---------------------------------------------------------------------------------------------

    @rule(
        rows=st.integers(1, 3),
        width=st.integers(1, 2),
        is_urgent=st.integers(0, 3).map(lambda n: n == 0),
        is_poisoned=st.integers(0, 9).map(lambda n: n == 0),
        is_hurried=st.integers(0, 4).map(lambda n: n == 0),
    )
    def arrive(self, rows: int, width: int, is_urgent: bool, is_poisoned: bool, is_hurried: bool) -> None:
        call = Call(HURRIED_S if is_hurried else 60)
        call.ask(None, is_urgent=is_urgent)
        request = Request(len(self.requests), rows, width, call, is_poisoned, len(self.batchers) - 1)
        value = -1 - request.number if is_poisoned else request.number
        inputs = {"x": np.full((rows, width), value, "f8")}
        request.task = self.loop.create_task(self.batchers[-1].submit(inputs, call))
        self.requests.append(request)
        self.settle()

    @precondition(lambda self: self.unanswered())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.unanswered())).call.leave()
        self.settle()

    @precondition(lambda self: self.unanswered())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.unanswered())).task
        assert task
        task.cancel()
        self.settle()

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def finish_a_run(self, data: st.DataObject) -> None:
        self.runs.pop(data.draw(st.integers(0, len(self.runs) - 1))).let_go.set()
        self.settle()

    @precondition(lambda self: self.runs and self.unanswered())
    @rule(data=st.data())
    def leave_as_a_run_finishes(self, data: st.DataObject) -> None:
        """In one turn of the loop: the next batch is formed before the request that is left knows of it."""
        self.runs.pop(0).let_go.set()
        data.draw(st.sampled_from(self.unanswered())).call.leave()
        self.settle()

    @rule()
    def time_passes(self) -> None:
        self.loop.now += 2 * HURRIED_S
        self.settle()

    @rule()
    def reload(self) -> None:
        """A batcher of its own for the model's new version; the old one is closed and answers what it has."""
        if self.batchers:
            self.closing.append(self.loop.create_task(self.batchers[-1].close()))
        batcher = Batcher(
            "m",
            self.run_model,
            self.observed,
            merges=True,
            instances=self.instances,
            max_batch_size=self.most,
            max_queue_delay_ms=self.delay_ms,
            max_queue_size=QUEUE_SIZE,
            max_queue_bytes=QUEUE_BYTES,
        )
        self.batchers.append(batcher)
        self.loop.run_until_complete(self.begin(batcher))
        self.settle()

    # ---- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def memory_is_bounded_and_counted(self) -> None:
        for batcher in self.batchers:
            queue = batcher._queue
            waiting = list(queue._waiting)
            assert len(waiting) <= QUEUE_SIZE
            assert queue.nbytes == sum(pending.nbytes for pending in waiting)
            assert queue.rows == sum(pending.rows for pending in waiting)
            assert queue.nbytes <= QUEUE_BYTES or len(waiting) == 1
        assert self.observed.pending == len(self.unanswered())

    @invariant()
    def every_batch_was_right(self) -> None:
        if self.wrong:
            raise self.wrong[0]

    @invariant()
    def no_more_run_than_instances(self) -> None:
        assert len(self.runs) <= self.instances * len(self.batchers)

    def teardown(self) -> None:
        """Let everything end: whatever was asked has been answered, once, and rightly."""
        try:
            if self.batchers:
                self.loop.run_until_complete(asyncio.wait_for(self.end(), 20))
                self.every_batch_was_right()
                for request in self.requests:
                    self.check_answer(request)
                assert self.observed.pending == 0
                assert all(not batcher._queue and batcher._queue.nbytes == 0 for batcher in self.batchers)
        finally:
            logging.disable(logging.NOTSET)
            for clock in self.clocks:
                clock.stop()
            self.loop.close()

    def check_answer(self, request: Request) -> None:
        task = request.task
        assert task
        assert task.done()
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            assert not request.is_poisoned
            assert task.result()["y"].tolist() == [[2.0 * request.number] * request.width] * request.rows
            return
        assert isinstance(error, ServiceError)
        assert not isinstance(error, InferenceError) or request.is_poisoned  # a poisoned request fails alone
        assert not isinstance(error, ClientGoneError) or request.call.has_left
        assert not isinstance(error, DeadlineError) or request.call.timeout_s == HURRIED_S
        allowed = InferenceError | ClientGoneError | DeadlineError | QueueFullError | ModelNotReadyError
        assert isinstance(error, allowed)
        if isinstance(error, QueueFullError | ModelNotReadyError):
            assert request.started is None

    # ------------------------------------------------------------------------------------------------------------------

    async def run_model(self, inputs: Arrays) -> Arrays:
        """Held until it is finished."""
        x = inputs["x"]
        try:
            self.check_batch(x)
        except AssertionError as error:
            self.wrong.append(error)  # the batcher would take it for the model's failure
        self.run_count += 1
        run = Run(inputs)
        self.runs.append(run)
        await run.let_go.wait()
        if (x < 0).any():
            raise RuntimeError("poisoned")
        return {"y": x * 2}

    def check_batch(self, x: Array) -> None:
        """What was put together may be, and is in its turn."""
        numbers = [int(-1 - value if value < 0 else value) for value in dict.fromkeys(x[:, 0].tolist())]
        requests = [self.requests[number] for number in numbers]
        assert len({(request.width, request.batcher) for request in requests}) == 1
        assert x.shape[0] == sum(request.rows for request in requests)
        assert x.shape[0] <= self.most or len(requests) == 1
        for request in requests:
            if request.started is None:
                assert request.task
                assert not request.task.done()  # nobody waits for it: it must not be computed
                assert not request.call.has_left
                request.started = self.run_count
                earlier = [each for each in self.requests[: request.number] if each.kind == request.kind]
                # Whoever came before it has begun, no later than it, or needs no run any more.
                for other in earlier:
                    assert other.task
                    is_late = other.call.deadline <= self.loop.now  # its task may not know yet
                    needs_none = other.task.done() or other.call.has_left or is_late
                    assert other.started is not None or needs_none, (other, request)

    def unanswered(self) -> list[Request]:
        return [request for request in self.requests if request.task and not request.task.done()]

    async def begin(self, batcher: Batcher) -> None:
        batcher.start()

    def settle(self) -> None:
        """Until nothing more happens by itself."""

        async def turns() -> None:
            for _ in range(30):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    async def end(self) -> None:
        self.closing.append(asyncio.create_task(self.batchers[-1].close()))
        while not all(task.done() for task in self.closing) or self.unanswered():
            while self.runs:
                self.runs.pop().let_go.set()
            self.loop.now += 0.0005
            await asyncio.sleep(0)
        await asyncio.gather(*self.closing)


BatcherMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_batcher_machine = BatcherMachine.TestCase
