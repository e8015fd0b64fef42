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
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from service.errors import InferenceError, ModelNotReadyError, QueueFullError, ServiceError
from service.protocol import Arrays

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


@dataclass(eq=False)
class _Pending:
    """A request waiting for its answer."""

    inputs: Any  # Arrays where requests merge
    rows: int
    signature: Hashable  # requests merge only when these are equal
    future: asyncio.Future[Arrays]
    nbytes: int = 0  # of the inputs, where requests merge
    queued_at: float = field(default_factory=perf_counter)

    def resolve(self, answer: Arrays | ServiceError) -> None:
        """Hand the answer over; a caller that has left is past caring."""
        if self.future.done():
            return
        if isinstance(answer, ServiceError):
            self.future.set_exception(answer)
        else:
            self.future.set_result(answer)


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
        self._max_queue_size = max_queue_size
        self._queue: deque[_Pending] = deque()
        self._queued_rows = 0
        self._enough_rows = 1  # queued, to look at the queue again
        self._look = asyncio.Event()
        self._forming = asyncio.Lock()  # one instance at a time forms its batch, or two would share one request's wait
        self._running = self._running_rows = 0
        self._seconds_a_byte = 0.0  # of input, as the last run had it
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

    async def submit(self, inputs: Any) -> Arrays:
        """The model's outputs for ``inputs``: (rows, ...) arrays by name, rows along axis 0.

        Without merging, inputs are whatever ``run`` takes.

        Raises QueueFullError at once when ``max_queue_size`` requests wait already, ModelNotReadyError once the model
        is being closed, InferenceError when the run fails.
        """
        if self._closing:
            raise ModelNotReadyError(f"model {self._name} is being closed")
        if len(self._queue) >= self._max_queue_size:
            raise QueueFullError(self._name, self._max_queue_size)
        pending = _Pending(
            inputs,
            rows=len(next(iter(inputs.values()))) if self._merges else 1,
            signature=_signature(inputs) if self._merges else None,
            future=asyncio.get_running_loop().create_future(),
            nbytes=sum(array.nbytes for array in inputs.values()) if self._merges else 0,
        )
        self._queue.append(pending)
        self._queued_rows += pending.rows
        if self._queued_rows >= self._enough_rows:
            self._look.set()
        self._observer.pending_changed(+1)
        try:
            return await pending.future
        except asyncio.CancelledError:
            with suppress(ValueError):  # it has been taken into a batch already
                self._queue.remove(pending)  # a caller that left must not keep others out of the queue
                self._queued_rows -= pending.rows
                self._look.set()  # what is enough to look at was counted with it
            raise
        finally:
            self._observer.pending_changed(-1)

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
            self._seconds_a_byte = took / max(1, sum(pending.nbytes for pending in batch))
            moment, answered = GATHERING * took, min(answered, self._max_batch_size)
            gathers_until = perf_counter() + (moment if moment >= LEAST_GATHERING_S else 0)
            del batch  # or an idle instance would keep the last batch's arrays alive

    async def _form(self, answered: int, gathers_until: float) -> list[_Pending]:
        """The next batch, waiting for one; empty when there is nothing left to wait for.

        ``answered`` rows have just been answered; until then, as many are worth waiting for.
        """
        while True:
            if self._queue:
                rows, now = self._rows_like_the_first(), perf_counter()
                delayed_until = self._queue[0].queued_at + self._max_queue_delay_s
                waits_until = delayed_until if rows >= answered else max(delayed_until, gathers_until)
                if now >= waits_until or self._closing or rows >= self._max_batch_size:
                    if batch := self._take():
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
        self._enough_rows = max(enough_rows, self._queued_rows + 1)
        self._look.clear()
        # Rounded up: what uvloop rounds to no time at all would be waited for by asking again and again.
        whole = None if seconds is None else math.ceil(seconds * 1e3) / 1e3
        timer = None if whole is None else asyncio.get_running_loop().call_later(whole, self._look.set)
        await self._look.wait()
        if timer is not None:
            timer.cancel()

    def _rows_like_the_first(self) -> int:
        """Rows that could share a run with the oldest request."""
        signature = self._queue[0].signature
        return sum(pending.rows for pending in self._queue if pending.signature == signature)

    def _most_rows(self) -> int:
        """Rows that are worth a run together, of those like the oldest request.

        No more than an instance's share of all that waits or runs: a longer run would leave the others without work, or
        with work for a row or two at a time. And no more than run for a while: a share that would run for longer is
        divided evenly.
        """
        if self._max_queue_delay_s:  # who waits for full batches wants them full
            return self._max_batch_size
        share = math.ceil((self._rows_like_the_first() + self._running_rows) / self._instances)
        first = self._queue[0]
        would_take = share * self._seconds_a_byte * first.nbytes / first.rows
        return min(self._max_batch_size, math.ceil(share / max(1, round(would_take / LONG_ENOUGH_S))))

    def _take(self) -> list[_Pending]:
        """The oldest request and those behind it that merge with it, in order, up to :meth:`_most_rows`.

        A request of more rows than that runs alone. The first that does not fit ends the batch, so that of equal
        requests none overtakes another; others keep their place. Callers that have just left are dropped.
        """
        batch, rows, left = list[_Pending](), 0, deque[_Pending]()
        most = self._most_rows()
        while self._queue:
            pending = self._queue.popleft()
            if pending.future.done():
                self._queued_rows -= pending.rows
                continue
            if batch and pending.signature != batch[0].signature:
                left.append(pending)
            elif batch and rows + pending.rows > most:
                left.append(pending)
                break
            else:
                batch.append(pending)
                rows += pending.rows
        self._queue.extendleft(reversed(left))
        self._queued_rows -= rows
        return batch

    async def _execute(self, batch: list[_Pending]) -> None:
        """Run a batch and give every caller its rows; any failure reaches every caller."""
        started = perf_counter()
        try:
            is_alone = not self._queue and self._running == 1
            outputs = await (self._run_alone if is_alone else self._run)(self._merged(batch))
            for pending, answer in zip(batch, self._split(outputs, batch), strict=True):
                pending.resolve(answer)
            self._observer.observe_batch(
                sum(pending.rows for pending in batch),
                [started - pending.queued_at for pending in batch],
                perf_counter() - started,
            )
        except ServiceError as error:  # what the run says of its input, which is then no batch of several
            for pending in batch:
                pending.resolve(error)
        except Exception:
            logger.exception("a batch of %s failed", self._name)  # the runtime's words are for the log
        finally:
            for pending in batch:  # whatever happened, nobody waits for ever
                pending.resolve(InferenceError(self._name))

    def _merged(self, batch: list[_Pending]) -> Arrays:
        if len(batch) == 1:
            inputs: Arrays = batch[0].inputs
            return inputs
        return {name: np.concatenate([pending.inputs[name] for pending in batch]) for name in batch[0].inputs}

    def _split(self, outputs: Arrays, batch: list[_Pending]) -> list[Arrays]:
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
