"""Standard error for many lines: whoever writes never waits for whoever reads."""

import atexit
import os
import select
from collections import deque
from contextlib import suppress
from functools import cache
from threading import Event, Thread

MOST_LINES = 10_000  # that wait; some MB. A reader that is further behind loses what comes
LOOKS_EACH_S = 0.1  # no sooner, so that a line costs no change of threads
ENDS_WITHIN_S = 1.0  # for what still waits when the process ends


class QueuedStream:
    """Lines for a thread to write. When the reader has stopped reading they are dropped, counted, and that is told."""

    def __init__(self, descriptor: int) -> None:
        """descriptor: of what is written to. Not a file: the interpreter waits for those when it ends."""
        self._descriptor = descriptor
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._ends = Event()
        self._thread = Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """One or more whole lines."""
        if len(self._lines) < MOST_LINES:
            self._lines.append(line)
        else:
            self._dropped += 1

    def flush(self) -> None:
        """What waits is written soon."""

    def close(self) -> None:
        """Write what still waits, if the reader takes it."""
        self._ends.set()
        self._thread.join(ENDS_WITHIN_S)

    def _write_all(self) -> None:
        while not self._ends.wait(LOOKS_EACH_S):
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        while self._lines:
            part = [self._lines.popleft()]
            # A pipe takes so many bytes as a whole: those of several workers are not mixed. (All lines are ASCII, or
            # nearly so.)
            size = len(part[0])
            while self._lines and (size := size + len(self._lines[0])) <= select.PIPE_BUF:
                part.append(self._lines.popleft())
            self._write("".join(part))
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._write(f"{dropped} lines of the log were dropped: whoever reads it is too slow\n")

    def _write(self, lines: str) -> None:
        left = lines.encode(errors="backslashreplace")
        with suppress(OSError):  # nobody is left to be told
            while left:
                left = left[os.write(self._descriptor, left) :]


@cache
def standard_error() -> QueuedStream:
    """The one of this process, begun when it is first asked for."""
    stream = QueuedStream(2)
    atexit.register(stream.close)
    return stream
