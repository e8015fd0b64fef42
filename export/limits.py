"""What a caller wishes to be served, against what the model takes: sizes, values and rows."""

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
TIMED_ROWS = 4


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
            if size != -1 and size < 1:
                raise ExportError(f"max_shape of {name} is {list(shape)}, a size is at least 1, or -1: no wish")
            if batch_axis == 0 and axis == 0:
                if size not in (-1, max_rows):
                    raise ExportError(
                        f"max_shape of {name} begins with {size}, its number of rows, which max_rows limits: say -1"
                    )
            elif size != -1:
                limits[name, axis] = size
    return limits


def check_bounds(bounds: Bounds, rows: Arrays) -> None:
    """Raises ExportError when they are of no input, or exclude what the example holds."""
    _check_names("bounds", bounds, rows)
    for name, (low, high) in bounds.items():
        smallest, largest = rows[name].min(), rows[name].max()
        if not low <= smallest <= largest <= high:
            raise ExportError(
                f"{name} is to lie between {low:g} and {high:g}, what is measured on lies between {smallest:g} and "
                f"{largest:g}"
            )


def check_values(error: Callable[[Arrays], str], arrays: Arrays, bounds: Bounds) -> None:
    """Raises ExportError when the model fails at an end of what its integers may be."""
    for name, ends in bounds.items():
        if arrays[name].dtype.kind not in "iu":
            continue
        for end in ends:
            if reason := error(arrays | {name: np.full_like(arrays[name], end)}):
                raise ExportError(f"{name} is to be served up to its bounds, the model fails at {end:g}: {reason}")


def row_limit(run: Run, rows: Arrays) -> int:
    """The largest of 256, 128, 64, ... of which a run takes half a second at most, on one thread."""
    few = of_rows(rows, TIMED_ROWS)
    run(few)  # the first allocates
    started = perf_counter()
    run(few)
    seconds_a_row = (perf_counter() - started) / TIMED_ROWS
    limit = MOST_ROWS
    while limit > FEWEST_ROWS and limit * seconds_a_row > RUN_S:
        limit //= 2
    return limit


def _check_names(what: str, given: Mapping[str, object], arrays: Arrays) -> None:
    for name in given:
        if name not in arrays:
            raise ExportError(f"{what} has {name!r} in it, the inputs are {', '.join(arrays)}")
