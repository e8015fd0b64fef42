"""Requests that wait for a model: bounded, the urgent ones first, and nobody for ever."""

import asyncio
import bisect
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from operator import attrgetter
from time import perf_counter
from typing import Any

from service.errors import QueueFullError, ServiceError
from service.protocol import Arrays
from service.record import Record

# An urgent request stands where it would, had it come so much earlier: before all that came since then, and behind what
# has waited for longer. So however many urgent ones come, another waits for no more than this on their account.
HEAD_START_S = 1.0


@dataclass(eq=False, slots=True)
class Pending:
    """A request waiting for its answer."""

    inputs: Any  # Arrays where requests merge
    rows: int
    nbytes: int  # of its inputs
    signature: Hashable  # requests merge only when these are equal
    future: asyncio.Future[Arrays]
    queued_at: float
    place: float  # in the queue: the least is the first
    record: Record | None = None

    def resolve(self, answer: Arrays | ServiceError) -> None:
        """Hand the answer over; a caller that has left, or has been answered, is past caring."""
        if self.future.done():
            return
        if isinstance(answer, ServiceError):
            self.future.set_exception(answer)
        else:
            self.future.set_result(answer)


class RequestQueue:
    """The pending requests of one model, in the order in which they are to be run."""

    def __init__(self, name: str, max_requests: int, max_bytes: int) -> None:
        self.rows = self.nbytes = 0
        self._name = name
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._waiting: deque[Pending] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def check(self, nbytes: int = 0) -> None:
        """Raises QueueFullError when a request of so many bytes may not wait here; one alone always may."""
        if len(self._waiting) >= self._max_requests:
            raise QueueFullError(self._name, f"{self._max_requests} requests are waiting", "MAX_QUEUE_SIZE")
        if self._waiting and self.nbytes + nbytes > self._max_bytes:
            said = f"requests of {self.nbytes} bytes are waiting, this one has {nbytes}, at most {self._max_bytes} wait"
            raise QueueFullError(self._name, said, "MAX_QUEUE_BYTES")

    def add(
        self,
        inputs: Any,
        rows: int,
        nbytes: int,
        signature: Hashable,
        *,
        is_urgent: bool,
        future: asyncio.Future[Arrays],
    ) -> Pending:
        """A request in its place. Raises QueueFullError."""
        self.check(nbytes)
        now = perf_counter()
        place = now - HEAD_START_S if is_urgent else now
        pending = Pending(inputs, rows, nbytes, signature, future, now, place)
        if not is_urgent or not self._waiting:
            self._waiting.append(pending)
        else:
            bisect.insort(self._waiting, pending, key=attrgetter("place"))
        self.rows += rows
        self.nbytes += nbytes
        return pending

    def discard(self, pending: Pending) -> bool:
        """Forget a request that needs no answer any more; whether it was still waiting."""
        if pending not in self._waiting:  # it is in a batch already; remove() would write all its numbers in its error
            return False
        self._waiting.remove(pending)
        self._count_out(pending)
        return True

    def first(self) -> Pending:
        """The next to be run, of those there are."""
        return self._waiting[0]

    def rows_like_the_first(self) -> int:
        """Rows that could share a run with it."""
        signature = self._waiting[0].signature
        return sum(pending.rows for pending in self._waiting if pending.signature == signature)

    def take(self, most: int) -> list[Pending]:
        """The first request and those behind it that merge with it, in order, up to ``most`` rows.

        A request of more rows than that goes alone. The first that does not fit ends the batch, so that of equal
        requests none overtakes another; others keep their place. Those that have been answered are dropped.
        """
        batch, rows, left = list[Pending](), 0, deque[Pending]()
        while self._waiting:
            pending = self._waiting.popleft()
            if pending.future.done():
                self._count_out(pending)
            elif batch and pending.signature != batch[0].signature:
                left.append(pending)
            elif batch and rows + pending.rows > most:
                left.append(pending)
                break
            else:
                batch.append(pending)
                rows += pending.rows
                self._count_out(pending)
        self._waiting.extendleft(reversed(left))
        return batch

    def _count_out(self, pending: Pending) -> None:
        self.rows -= pending.rows
        self.nbytes -= pending.nbytes
