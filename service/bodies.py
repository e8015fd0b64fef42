"""What the bodies of all requests together take of this process's memory, whatever connection or model they are for.

Counted is what has come, not what was announced: a client that sends nothing keeps nobody out. From the moment a
request is in its model's queue, it is counted there (``request_queue``).
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from service.call import Call
from service.errors import BodiesFullError
from service.off_the_loop import JSON_COSTS, LARGE_BYTES, off_the_loop
from service.turns import Turns

# A body of no more is not counted, nor ever refused for the others' sake: a connection has one at a time, so they are
# bounded already, by MAX_CONNECTIONS (1024 x 64 KiB = 64 MiB), and small requests cost nothing more than before.
UNCOUNTED_BYTES = 2**16

# Bytes that a byte of JSON may become while it is read: 26 where each number has a list of its own ("[1],") in rows
# that are too large to be read in pieces, 7 for short numbers as FP64 ("0,"), 1 to 2 as a rule.
JSON_TAKES = 32

P = ParamSpec("P")
R = TypeVar("R")


class Bodies:
    """One for the process. Only the event loop's thread counts.

    What a request holds stands in its call (``call.body_bytes``): an object more, as a context manager, would cost a
    small request 0.4 us. Whoever has it read a body lets go of it in a ``finally``.
    """

    def __init__(self, max_bytes: int) -> None:
        self.nbytes = 0
        self._max_bytes = max_bytes
        self._turns = Turns(max_bytes)

    def check(self, call: Call, nbytes: int) -> None:
        """Raises BodiesFullError when a request may not hold so much; one that is alone always may."""
        others = self.nbytes - call.body_bytes
        if others and others + nbytes > self._max_bytes:
            raise BodiesFullError(others, self._max_bytes)

    def hold(self, call: Call, nbytes: int) -> None:
        """The request holds so much from now on, in place of what it held. Raises BodiesFullError."""
        counted = nbytes if nbytes > UNCOUNTED_BYTES else 0
        if counted > call.body_bytes:
            self.check(call, counted)
        self.nbytes += counted - call.body_bytes
        call.body_bytes = counted

    def let_go(self, call: Call) -> None:
        """The request holds nothing any more."""
        self.nbytes -= call.body_bytes
        call.body_bytes = 0

    async def decoded(
        self, nbytes: int, json_bytes: int, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """``function(*args)``, which reads a body of so many bytes, of which so many are JSON.

        What it makes of a large one is bounded too, to as much again as all bodies. What does not fit waits for its
        turn, in place of a refusal: nothing is lost by that, for the interpreter's lock lets one read JSON at a time.
        """
        work = nbytes + (JSON_COSTS - 1) * json_bytes
        if work <= LARGE_BYTES:
            return function(*args, **kwargs)
        async with self._turns.of(nbytes + (JSON_TAKES - 1) * json_bytes):
            return await off_the_loop(work, function, *args, **kwargs)
