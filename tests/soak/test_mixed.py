"""Every model and operation, many shapes, every format, and errors among them, for as long as one has patience."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import theilslopes

from bench.asks import mixed
from bench.clients import alone, asking
from bench.report import Line

CLIENTS = 8
# Of each model and operation, and rows and length of the largest. Five: all formats.
SHAPES, SHORTENED = (15, (24, 256)), (5, (8, 64))
WARM_UP = 1 / 3  # of all time: until each shape has met others in a batch
BLOCK_S = 60


def slope_of(samples: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Bytes a second, and the ends of its interval of 95 %: Theil and Sen's median of slopes over medians of blocks.

    Medians of a minute leave out what single large requests take and give back; their slopes' median does not follow
    the few steps that an allocator makes.
    """
    times, sizes = np.array(samples).T
    blocks = (times // BLOCK_S).astype(int)
    blocks -= blocks[0]
    medians = [np.median(sizes[blocks == block]) for block in np.unique(blocks)]
    slope, _, low, high = theilslopes(medians, BLOCK_S * np.unique(blocks), 0.95)
    return float(slope), float(low), float(high)


def test_the_slope_is_that_of_the_line_beneath_noise_and_peaks() -> None:
    rng = np.random.default_rng(0)
    times = np.arange(0, 1200, 1.0)
    sizes = 3e8 + 250 * times + rng.normal(0, 1e5, len(times)) + np.where(rng.random(len(times)) < 0.1, 5e7, 0)
    slope, low, high = slope_of(list(zip(times, sizes, strict=True)))
    assert low < 250 < high
    assert abs(slope - 250) < 50


def test_mixed_requests_are_answered_as_alone_and_memory_does_not_grow(
    server: Any, full: bool, record: Callable[..., None]
) -> None:
    seconds = 1800 if full else 6
    samples = list[tuple[float, float]]()
    with server() as (started, address):
        asked = alone(address, mixed(*(SHAPES if full else SHORTENED)))
        before = started.resident_bytes()
        with asking(address, asked, CLIENTS) as tally:
            began = time.monotonic()
            while (now := time.monotonic() - began) < seconds:
                samples.append((now, started.resident_bytes()))
                time.sleep(1)  # of sampling, not of waiting
        assert [each.alone for each in alone(address, [each.ask for each in asked])] == [each.alone for each in asked]
        assert "Traceback" not in started.said()
    refused = sum(tally.statuses[status] for status in (429, 503, 504))
    wrong = len(tally.lost) + len(tally.unexpected) + refused
    if full:
        warm = [sample for sample in samples if sample[0] >= WARM_UP * seconds]
        slope, low, high = (3600 / 1e6 * each for each in slope_of(warm))
        first, last = (float(np.median([size for _, size in part])) / 1e6 for part in (warm[:60], warm[-60:]))
        spread = (
            f"{low:.2f} to {high:.2f} (95 %); {before / 1e6:.0f} MB before, {first:.0f} after {warm[0][0] / 60:.0f} "
            f"minutes, {last:.0f} after {seconds / 60:.0f}"
        )
        record(
            Line("soak: slope of resident memory after warm-up", slope, spread, 1, False, " MB/h"),
            Line("soak: errors", wrong, f"{tally.answered} answers to {len(asked)} requests", 0, False),
            Line("soak: answers of other bytes", len(tally.different), f"of {tally.answered}", 0, False),
        )
    assert tally.answered > len(asked) / 4
    assert not refused
    assert not tally.wrong()
