"""Two ways of doing the same, timed by turns: what slows the machine down slows down both."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Seconds = dict[str, list[float]]


def by_turns(
    ways: Mapping[str, Callable[[], Any]], rounds: int, after_round: Callable[[], object] = lambda: None
) -> Seconds:
    """Seconds of every round, for each way."""
    taken: Seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - started)
        after_round()
    return taken


def medians(taken: Seconds) -> dict[str, float]:
    """Seconds to the microsecond."""
    return {name: round(float(np.median(seconds)), 6) for name, seconds in taken.items()}


def ratios(ours: Sequence[float], theirs: Sequence[float], digits: int) -> tuple[float, list[float]]:
    """Of every round: the median, and both quartiles."""
    low, median, high = np.quantile(np.divide(ours, theirs), (0.25, 0.5, 0.75)).round(digits).tolist()
    return median, [low, high]
