"""When requests begin: a few in each pass of the event loop, however many have come."""

import asyncio
from collections import deque
from collections.abc import Callable

# With five times as many requests as can be computed the loop refused hundreds in a pass, 0.15 s of it, and whoever had
# computed a batch waited that long for the next (docs/decisions/0016).
MOST_IN_A_PASS = 16


class Starts:
    """Begins what it is given, in order, and leaves the loop free for everything else in between."""

    def __init__(self) -> None:
        self._left = MOST_IN_A_PASS
        self._waiting = deque[Callable[[], object]]()

    def begin(self, start: Callable[[], object]) -> None:
        """Now, or in one of the next passes."""
        if not self._left:
            self._waiting.append(start)
            return
        if self._left == MOST_IN_A_PASS:
            asyncio.get_running_loop().call_soon(self._next_pass)
        self._left -= 1
        start()

    def _next_pass(self) -> None:
        self._left = MOST_IN_A_PASS
        while self._waiting and self._left:
            self._left -= 1
            self._waiting.popleft()()
        if self._left < MOST_IN_A_PASS:
            asyncio.get_running_loop().call_soon(self._next_pass)
