"""What a caller wishes to be served, against what the model takes: sizes, values and rows."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

import numpy as np

from export.errors import ExportError
from export.example import Place, of_rows
from export.held_out import Arrays
from service.certificate import Run

Bounds = Mapping[str, tuple[float, float]]

MOST_ROWS, FEWEST_ROWS = 256, 8
RUN_S = 0.5  # a model is tried with full batches each time it is loaded, and one request may be a full batch
TIMED_ROWS, TIMED_RUNS = 4, 3  # the quickest tells: others were interrupted


def limits_of(
    max_shape: Mapping[str, Sequence[int]], arrays: Arrays, batch_axis: int | None, max_rows: int | None
) -> dict[Place, int]:
    """The largest size that is wished for, by its place; -1 in a shape wishes nothing. Raises ExportError."""
    _check_names("max_shape", max_shape, arrays)
    limits: dict[Place, int] = {}
    for name, shape in max_shape.items():
        if len(shape) != arrays[name].ndim:
            raise ExportError(
                f"max_shape of {name} is {list(shape)}, {name} of the example has shape {list(arrays[name].shape)}"
            )
        for axis, size in enumerate(shape):
            if not isinstance(size, int) or (size != -1 and size < 1):
                raise ExportError(
                    f"max_shape of {name} is {list(shape)}, a size is a whole number from 1, or -1: no wish"
                )
            if batch_axis == 0 and axis == 0:
                if size not in (-1, max_rows):
                    raise ExportError(
                        f"max_shape of {name} begins with {size}, its number of rows, which max_rows limits: say -1"
                    )
            elif size != -1:
                limits[name, axis] = size
    return limits


def bounds_of(given: Bounds, rows: Arrays) -> dict[str, tuple[float, float]]:
    """What each input lies between: as given, and of integers otherwise what there is. Raises ExportError.

    given: may be of any input, and exclude nothing that is in ``rows``.
    """
    _check_names("bounds", given, rows)
    for name, (low, high) in given.items():
        smallest, largest = rows[name].min(), rows[name].max()
        if not low <= smallest <= largest <= high:
            raise ExportError(
                f"{name} is to lie between {low:g} and {high:g}, what is measured on lies between {smallest:g} and "
                f"{largest:g}"
            )
        if rows[name].dtype.kind in "iu":
            kind = np.iinfo(rows[name].dtype)
            if low != int(low) or high != int(high) or low < kind.min or high > kind.max:
                raise ExportError(f"bounds of {name} are {low:g} and {high:g}, they must be of {kind.dtype}")
    found = {name: (float(a.min()), float(a.max())) for name, a in rows.items() if a.dtype.kind in "iu"}
    return found | {name: (float(low), float(high)) for name, (low, high) in given.items()}


def extremes(arrays: Arrays, bounds: Bounds) -> dict[str, Arrays]:
    """Inputs whose integers are all at an end: those of one input, and those of all; by what they are."""
    integers = [name for name in bounds if arrays[name].dtype.kind in "iu"]
    found: dict[str, Arrays] = {}
    for which, end in itertools.product([[name] for name in integers] + [integers] * (len(integers) > 1), (0, 1)):
        at_the_end = {name: np.full_like(arrays[name], int(bounds[name][end])) for name in which}
        words = " and ".join(f"all of {name} is {bounds[name][end]:g}" for name in which)
        found[words] = arrays | at_the_end
    return found


def check_values(error: Callable[[Arrays], str], arrays: Arrays, bounds: Bounds) -> None:
    """Raises ExportError when the model fails at an end of what its integers may be, which is admitted everywhere."""
    for words, inputs in extremes(arrays, bounds).items():
        if reason := error(inputs):
            raise ExportError(
                f"the model fails where {words}, and integers are served up to their bounds at every position: "
                f"{reason}. Give narrower bounds, or make an input of each part that has bounds of its own"
            )


def check_mixed(error: Callable[[Arrays], str], rows: Arrays, samples: int) -> None:
    """Raises ExportError when the model fails on the rows that were mixed, which lie where any request may."""
    if samples and (reason := error({name: array[-samples:] for name, array in rows.items()})):
        raise ExportError(
            f"the model fails on rows that are mixed of the example's: {reason}. Where inputs depend on each other so, "
            "make one of them"
        )


def rows_served(wished: int | None, run: Run, rows: Arrays, batch_axis: int | None) -> int:
    """The largest batch: as wished for, or what there is time for; without a batch axis there are no rows."""
    if batch_axis is None:
        return 1
    return row_limit(run, rows) if wished is None else wished


def row_limit(run: Run, rows: Arrays) -> int:
    """The largest of 256, 128, ... 8 of which a run, at the example's sizes and on one thread, takes half a second."""
    few = of_rows(rows, TIMED_ROWS)
    run(few)  # the first allocates
    taken = []
    for _ in range(TIMED_RUNS):
        started = perf_counter()
        run(few)
        taken.append(perf_counter() - started)
    limit = MOST_ROWS
    while limit > FEWEST_ROWS and limit * min(taken) / TIMED_ROWS > RUN_S:
        limit //= 2
    return limit


def _check_names(what: str, given: Mapping[str, object], arrays: Arrays) -> None:
    for name in given:
        if name not in arrays:
            raise ExportError(f"{what} has {name!r} in it, the inputs are {', '.join(arrays)}")
