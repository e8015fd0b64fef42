"""Dynamic batching: requests that wait while the model is busy share its next run.

It knows arrays and rows, neither HTTP nor ONNX. Waiting costs nothing while the model is idle: a request that finds it
so runs at once, and only what has queued up behind busy instances is merged.

Clients that wait for their answer before they ask again come back just after their batch, one after the other. The
first would run alone; so an instance that has just answered some rows waits for as many, for a moment that is short
beside the run itself (docs/decisions/0002).
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Hashable, Sequence
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from service.call import Call
from service.errors import ClientGoneError, DeadlineError, InferenceError, ModelNotReadyError, ServiceError
from service.pace import Pace
from service.protocol import Arrays
from service.record import Run
from service.request_queue import Pending, RequestQueue

logger = logging.getLogger(__name__)

AsyncRun = Callable[[Any], Awaitable[Arrays]]

GATHERING = 0.05  # of the last run's time
LEAST_GATHERING_S = 5e-4  # for less, uvloop's timers, which count whole milliseconds, are no use

# A run that is as long as this has long made up for what a run costs by itself; a longer one only leaves the caches. An
# encoder on two cores: 867 rows/s in runs of 8 (18 ms), 860 of 16, 756 of 64 (docs/decisions/0009).
LONG_ENOUGH_S = 0.03


class BatchObserver(Protocol):
    """Who is told of every batch that was answered."""

    def observe_batch(self, rows: int, queue_seconds: Sequence[float], compute_seconds: float) -> None:
        """Rows in the batch, how long each request of it had waited, and how long run, merging and splitting took."""

    def pending_changed(self, by: int) -> None:
        """So many more (or fewer) requests are waiting or running."""


def _whole_ms(seconds: float) -> float:
    """Rounded up: what uvloop's timers round to no time at all would be over before it has begun."""
    return math.ceil(seconds * 1e3) / 1e3


def _signature(inputs: Arrays) -> Hashable:
    return tuple((name, array.dtype, array.shape[1:]) for name, array in inputs.items())


class Batcher:
    """Queues requests for one model and runs them in batches, ``instances`` of them at a time.

    Only requests of equal input names, datatypes and sizes past the batch axis are merged; nothing is padded. Every
    call of :meth:`submit` is answered exactly once: with its own rows, or with an error.
    """

    def __init__(
        self,
        name: str,
        run: AsyncRun,
        observer: BatchObserver,
        *,
        run_alone: AsyncRun | None = None,
        merges: bool,
        instances: int,
        max_batch_size: int,
        max_queue_delay_ms: float,
        max_queue_size: int,
        max_queue_bytes: int,
    ) -> None:
        """merges: False for a model without a batch axis, whose requests then run one by one.

        run_alone: in place of ``run`` while nothing else runs or waits.
        """
        self._name = name
        self._run, self._run_alone = run, run_alone or run
        self._observer = observer
        self._merges = merges
        self._instances = instances
        self._max_batch_size = max_batch_size if merges else 1
        self._max_queue_delay_s = max_queue_delay_ms / 1000
        self._queue = RequestQueue(name, max_queue_size, max_queue_bytes)
        self._enough_rows = 1  # queued, to look at the queue again
        self._look = asyncio.Event()
        self._forming = asyncio.Lock()  # one instance at a time forms its batch, or two would share one request's wait
        self._running = self._running_rows = 0
        self._pace = Pace()
        self._workers: list[asyncio.Task[None]] = []
        self._closing = False

    def start(self) -> None:
        """Begin to serve; needs a running event loop."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._instances)]

    async def close(self) -> None:
        """Refuse what comes, finish what is queued, then end."""
        self._closing = True
        self._look.set()
        await asyncio.gather(*self._workers)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def check(self) -> None:
        """Raises what :meth:`submit` would raise of any request now, before its body is read."""
        if self._closing:
            raise ModelNotReadyError(f"model {self._name} is being closed")
        self._queue.check()

    async def submit(self, inputs: Any, call: Call, nbytes: int | None = None) -> Arrays:
        """The model's outputs for ``inputs``: (rows, ...) arrays by name, rows along axis 0.

        Without merging, inputs are whatever ``run`` takes, of so many ``nbytes``.

        Raises QueueFullError at once when as many requests or bytes wait as may, ModelNotReadyError once the model is
        being closed, InferenceError when the run fails, DeadlineError when the call's time is over, ClientGoneError
        when its client leaves. A request for which nobody waits any more is not computed, unless it is already.
        """
        if call.has_left:
            raise ClientGoneError("the client left before its request could run")
        if (seconds := call.deadline - perf_counter()) <= 0:
            raise DeadlineError(self._name, call.timeout_s)
        if self._closing:
            raise ModelNotReadyError(f"model {self._name} is being closed")
        loop = asyncio.get_running_loop()
        pending = self._queue.add(
            inputs,
            rows=len(next(iter(inputs.values()))) if self._merges else 1,
            nbytes=sum(array.nbytes for array in inputs.values()) if nbytes is None else nbytes,
            signature=_signature(inputs) if self._merges else None,
            is_urgent=call.is_urgent,
            future=loop.create_future(),
        )
        pending.record = call.record
        del inputs
        if self._queue.rows >= self._enough_rows:
            self._look.set()
        self._observer.pending_changed(+1)
        timer = loop.call_later(_whole_ms(seconds), lambda: pending.resolve(DeadlineError(self._name, call.timeout_s)))
        call.when_left(lambda: pending.resolve(ClientGoneError("the client left before its answer")))
        try:
            outputs = await pending.future
        except BaseException:
            if self._queue.discard(pending):  # it must not keep others out of the queue
                self._look.set()  # what is enough to look at was counted with it
            raise
        finally:
            timer.cancel()
            call.when_left(None)
            self._observer.pending_changed(-1)
            # Its future holds the error, the error's traceback this frame, and this frame the request: a cycle, in
            # which the tensors of every request that fails would wait for the collector.
            pending.inputs = None
        if perf_counter() > call.deadline:
            raise DeadlineError(self._name, call.timeout_s)
        return outputs

    async def _work(self) -> None:
        """One instance: form a batch, run it, again, until closed and empty."""
        answered, gathers_until = 0, 0.0
        while True:
            async with self._forming:
                batch = await self._form(answered, gathers_until)
            if not batch:
                return
            answered, started = sum(pending.rows for pending in batch), perf_counter()
            self._running += 1
            self._running_rows += answered
            try:
                await self._execute(batch)
            finally:
                self._running -= 1
                self._running_rows -= answered
            took = perf_counter() - started
            self._pace.observe(sum(pending.nbytes for pending in batch), took)
            moment, answered = GATHERING * took, min(answered, self._max_batch_size)
            gathers_until = perf_counter() + (moment if moment >= LEAST_GATHERING_S else 0)
            del batch  # or an idle instance would keep the last batch's arrays alive

    async def _form(self, answered: int, gathers_until: float) -> list[Pending]:
        """The next batch, waiting for one; empty when there is nothing left to wait for.

        ``answered`` rows have just been answered; until then, as many are worth waiting for.
        """
        while True:
            if self._queue:
                rows, now = self._queue.rows_like_the_first(), perf_counter()
                delayed_until = self._queue.first().queued_at + self._max_queue_delay_s
                waits_until = delayed_until if rows >= answered else max(delayed_until, gathers_until)
                if now >= waits_until or self._closing or rows >= self._max_batch_size:
                    if batch := self._queue.take(self._most_rows()):
                        return batch
                    continue
                enough = self._max_batch_size if now < delayed_until else answered
                await self._wait(enough, waits_until - now)
            elif self._closing:
                return []
            else:
                await self._wait(1, None)

    async def _wait(self, enough_rows: int, seconds: float | None) -> None:
        """Until so many rows are queued, of whatever kind, or so long; or the batcher is being closed."""
        self._enough_rows = max(enough_rows, self._queue.rows + 1)
        self._look.clear()
        loop = asyncio.get_running_loop()
        timer = None if seconds is None else loop.call_later(_whole_ms(seconds), self._look.set)
        await self._look.wait()
        if timer is not None:
            timer.cancel()

    def _most_rows(self) -> int:
        """Rows that are worth a run together, of those like the oldest request.

        No more than an instance's share of all that waits or runs: a longer run would leave the others without work, or
        with work for a row or two at a time. And no more than run for a while: a share that would run for longer is
        divided evenly.
        """
        if self._max_queue_delay_s:  # who waits for full batches wants them full
            return self._max_batch_size
        share = math.ceil((self._queue.rows_like_the_first() + self._running_rows) / self._instances)
        first = self._queue.first()
        would_take = self._pace.seconds(share * first.nbytes / first.rows, unknown=0.0)
        most = math.ceil(share / max(1, round(would_take / LONG_ENOUGH_S)))
        whole = round(most / first.rows) * first.rows  # of requests like the first; a part of one would be left out
        return min(self._max_batch_size, max(most, whole))

    async def _execute(self, batch: list[Pending]) -> None:
        """Run a batch and give every caller its rows.

        If the run fails, each request is run by itself, so that one which makes it fail does so to no other.
        """
        try:
            if not await self._succeeds(batch) and len(batch) > 1:
                for pending in batch:
                    if not pending.future.done() and not await self._succeeds([pending]):
                        pending.resolve(InferenceError(self._name))
        finally:
            for pending in batch:  # whatever happened, nobody waits for ever
                pending.resolve(InferenceError(self._name))

    async def _succeeds(self, batch: list[Pending]) -> bool:
        """Whether a run answers its callers, be it with what it says of their input."""
        try:
            await self._answer(batch)
        except ServiceError as error:  # the input is then no batch of several
            for pending in batch:
                pending.resolve(error)
        except Exception:
            logger.exception("a run of %s failed, with %d requests in it", self._name, len(batch))  # for the log alone
            return False
        return True

    async def _answer(self, batch: list[Pending]) -> None:
        started = perf_counter()
        is_alone = not self._queue and self._running == 1
        outputs = await (self._run_alone if is_alone else self._run)(self._merged(batch))
        for pending, answer in zip(batch, self._split(outputs, batch), strict=True):
            pending.resolve(answer)
        rows, ended = sum(pending.rows for pending in batch), perf_counter()
        self._observer.observe_batch(rows, [started - pending.queued_at for pending in batch], ended - started)
        run = None
        for pending in batch:
            if pending.record is not None:
                run = run or Run(rows, (started, ended))
                run.links.append(pending.record.link)
                pending.record.queue, pending.record.run = (pending.queued_at, started), run

    def _merged(self, batch: list[Pending]) -> Arrays:
        if len(batch) == 1:
            inputs: Arrays = batch[0].inputs
            return inputs
        return {name: np.concatenate([pending.inputs[name] for pending in batch]) for name in batch[0].inputs}

    def _split(self, outputs: Arrays, batch: list[Pending]) -> list[Arrays]:
        """Each caller's rows. Raises ValueError when an output has not as many rows as went in."""
        if not self._merges:
            return [outputs]
        rows = sum(pending.rows for pending in batch)
        for name, array in outputs.items():
            if array.ndim == 0 or array.shape[0] != rows:
                raise ValueError(f"output {name} has shape {array.shape} for {rows} rows")
        answers, start = [], 0
        for pending in batch:
            answers.append({name: array[start : start + pending.rows] for name, array in outputs.items()})
            start += pending.rows
        return answers
