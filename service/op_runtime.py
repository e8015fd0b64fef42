"""How the normalisation operations are run: which graph, in which datatype, and what becomes of its outputs."""

from pathlib import Path

import numpy as np

from service.certificate import Run, open_graph
from service.errors import OverflowingInputError
from service.ops import Operation, Task, of_channels
from service.protocol import DATATYPE_OF, DATATYPES, Arrays

GRAPHS = Path(__file__).parent / "graphs"
SHORT_ROW = 64  # up to so many numbers FP64 costs next to nothing, and a single rounding of FP32 would show
_FP32_EPS = float(np.finfo("f4").tiny), float(np.finfo("f4").max)


class Operator:
    """Runs the operations' graphs; safe to be called by several threads at once."""

    def __init__(self, intra_op_threads: int = 1) -> None:
        self._graphs: dict[tuple[str, str], Run] = {}
        for file in sorted(GRAPHS.glob("*.onnx")):
            name, datatype = file.stem.split(".")
            self._graphs[name, datatype] = open_graph(file.read_bytes(), intra_op_threads)

    def run(self, operation: Operation, inputs: Arrays) -> Arrays:
        """All outputs, for inputs of one datatype; parameters are among the inputs, as arrays without axes.

        The answer to FP16 is computed in FP32 and rounded once, at the end (``mean`` and ``inv_std`` stay FP32).
        Where FP32 cannot hold eps or the squares of x, and for short rows, FP64 computes instead.
        Raises InvalidInputError, and OverflowingInputError when FP64 cannot hold the squares either.
        """
        parameters = {name: inputs[name].item() for name in operation.parameters}
        tensors = {name: array for name, array in inputs.items() if name not in parameters}
        given = DATATYPE_OF[tensors["x"].dtype]
        task = operation.arrange(tensors, parameters)
        needs_fp64 = given == "FP64" or task.terms <= SHORT_ROW or not _FP32_EPS[0] <= parameters["eps"] <= _FP32_EPS[1]
        found = self._computed(task, parameters["eps"], "FP64" if needs_fp64 else "FP32")
        if not needs_fp64 and _overflowed(found, task):
            found = self._computed(task, parameters["eps"], "FP64")
        if _overflowed(found, task):
            raise OverflowingInputError(operation.name)
        if task.graph == "batch_norm_training":
            found = _after_training(found, task, tensors, parameters["momentum"])
        kept = DATATYPES["FP64" if given == "FP64" else "FP32"]
        with np.errstate(over="ignore"):  # infinity, where the datatype holds no number as large
            return {
                name: array.reshape(task.shapes[name]).astype(DATATYPES[given] if name == "y" else kept, copy=False)
                for name, array in found.items()
            }

    def _computed(self, task: Task, eps: float, datatype: str) -> Arrays:
        dtype = DATATYPES[datatype]
        inputs = {name: array.astype(dtype, copy=False) for name, array in task.inputs.items()}
        return self._graphs[task.graph, datatype](inputs | {"eps": np.array(eps, dtype)})


def _overflowed(found: Arrays, task: Task) -> bool:
    """Whether squares of finite numbers became infinite: the reciprocal of their root is 0, or NaN."""
    return not (found["inv_std"] > 0).all() and bool(np.isfinite(task.inputs["x"]).all())


def _after_training(found: Arrays, task: Task, inputs: Arrays, momentum: float) -> Arrays:
    """The answer in x's order, and the running statistics moved on as torch moves them: by the unbiased variance."""
    n, channels, *_ = task.shapes["y"]
    count = found["y"].size // channels
    y = found["y"].reshape(channels, n, -1).swapaxes(0, 1)  # (C, N S) -> (N, C, S)
    batch = {"running_mean": found["mean"], "running_var": found["variance"] * (count / (count - 1))}
    before = {name: of_channels(inputs, name, channels, training=True) for name in batch}
    moved = {name: (1 - momentum) * before[name] + momentum * array.reshape(channels) for name, array in batch.items()}
    return {"y": y, "mean": found["mean"], "inv_std": found["inv_std"], **moved}
