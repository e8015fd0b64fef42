"""A few of the rows that were measured on, recorded with their answers: the service compares itself with these."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from export.example import of_rows, resized
from export.folder import PROBE_SEED
from export.held_out import Array, Arrays
from export.ranges import Axis
from service.manifest import Probe, RecordedTensor

RECORDED_ROWS = 8
RECORDED_BYTES = 2**20  # of the inputs in the manifest


def recorded_probe(
    answer: Callable[[Arrays], Arrays],
    rows: Arrays,
    varying: Sequence[Axis],
    batch_axis: int | None,
    tolerance: float,
    by: Literal["torch", "onnxruntime"] = "torch",
) -> Probe:
    """The first rows, two at other sizes where there are any, and what ``answer`` says to both.

    by: what answers. tolerance: relative to its numbers, and to the root mean square of the output whose is smallest.
    """
    first = rows
    if batch_axis == 0:
        row_bytes = sum(array[0].nbytes for array in rows.values())
        first = of_rows(rows, max(2, min(RECORDED_ROWS, RECORDED_BYTES // row_bytes, len(next(iter(rows.values()))))))
    batches = [first]
    if varying:
        sizes = {place: axis.other for axis in varying for place in axis.places}
        batches.append(resized(of_rows(first, 2) if batch_axis == 0 else first, sizes))
    answers = [answer(batch) for batch in batches]
    return Probe(
        by=by,
        seed=PROBE_SEED,
        shapes=[list(next(iter(batch.values())).shape) for batch in batches],
        inputs=[{name: RecordedTensor.of(array) for name, array in batch.items()} for batch in batches],
        outputs=Probe.pack(answers),
        atol=tolerance * least_rms_of(list(answers[0].values())),
        rtol=tolerance,
    )


def rms_of(array: Array) -> float:
    """Of all finite numbers: a logit may be masked by minus infinity."""
    flat = array.astype("f8").ravel()
    flat = flat[np.isfinite(flat)]
    return float(np.sqrt(np.mean(flat**2))) if flat.size else 0.0


def least_rms_of(outputs: Sequence[Array]) -> float:
    """Of the real output whose numbers are smallest: a tolerance that suits a larger one would hide all its errors."""
    return min((rms for array in outputs if array.dtype.kind == "f" and (rms := rms_of(array))), default=0.0)
