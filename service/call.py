"""A request for an answer: until when the answer is of use, how urgent it is, and whether anybody still waits."""

from collections.abc import Callable
from time import perf_counter

from starlette.types import Scope

from service.record import RECORD, Record

WHEN_CLIENT_LEAVES = "normserve.when_client_leaves"  # of a scope: a server that tells at once (http_protocol.py)


def arriving(scope: Scope, timeout_s: float, model: str) -> "Call":
    """The call that begins with this request. model: that it is for."""
    call = Call(timeout_s)
    if (record := scope.get(RECORD)) is not None:
        record.model, call.record = model, record
    if (tell := scope.get(WHEN_CLIENT_LEAVES)) is not None:
        tell(call.leave)
    return call


class Call:
    """Made when a request arrives; whoever has it waiting may ask to be told that its client has left."""

    __slots__ = ("_when_left", "arrived", "body_bytes", "has_left", "is_urgent", "record", "timeout_s")

    def __init__(self, timeout_s: float) -> None:
        """timeout_s: from now."""
        self.arrived = perf_counter()
        self.timeout_s = timeout_s
        self.is_urgent = False
        self.has_left = False
        self.body_bytes = 0  # that it holds and that are counted: see bodies.py
        self.record: Record | None = None  # where somebody wants one
        self._when_left: Callable[[], object] | None = None

    @property
    def deadline(self) -> float:
        """In the seconds of ``time.perf_counter``."""
        return self.arrived + self.timeout_s

    def ask(self, timeout_s: float | None, *, is_urgent: bool) -> None:
        """What the request itself says: it can shorten the time it has, not lengthen it."""
        if timeout_s is not None and timeout_s < self.timeout_s:
            self.timeout_s = timeout_s
        self.is_urgent = is_urgent

    def leave(self) -> None:
        """The client has closed its connection."""
        self.has_left = True
        if self._when_left is not None:
            self._when_left()

    def when_left(self, tell: Callable[[], object] | None) -> None:
        """What is to be done then, from now on; None: nothing."""
        self._when_left = tell
