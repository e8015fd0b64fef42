"""How long a model's next run will take, by how long its last ones took."""

from collections import deque

LATEST = 8  # runs of which the quickest tells: others were interrupted


class Pace:
    """Of one model, by the bytes of its input."""

    __slots__ = ("_seconds_a_byte",)

    def __init__(self) -> None:
        self._seconds_a_byte = deque[float](maxlen=LATEST)

    def observe(self, nbytes: int, seconds: float) -> None:
        """A run of so many bytes has taken so long."""
        self._seconds_a_byte.append(seconds / max(1, nbytes))

    def seconds(self, nbytes: float, *, unknown: float) -> float:
        """For a run of so many bytes; ``unknown`` where there has been none yet."""
        return nbytes * min(self._seconds_a_byte) if self._seconds_a_byte else unknown
