"""How the normalisation operations are run: which graph, in which datatype, and what becomes of its outputs.

The graphs are made by ``export`` and ship with the service; docs/decisions/0006 says how they keep their accuracy.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from service.certificate import Run, open_graph, thread_invariant
from service.errors import OverflowingInputError
from service.manifest import CERTIFICATES_FILE, Certificate, Certificates
from service.ops import OPERATIONS, Operation, Task, of_channels
from service.protocol import DATATYPE_OF, DATATYPES, Arrays

GRAPHS = Path(__file__).parent / "graphs"
# Up to so many numbers to a mean, roundings of FP32 may by chance exceed twice torch's error (2 of 1000 rows of two).
# FP64 takes 1.1 times as long for one row of 64, three times for 10 000 of them.
SHORT_ROW = 64
CHECK_SEED, CHECK_SHAPE = 7, (64, 8, 96)
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
        needs_fp64 = (
            given == "FP64"
            or task.graph == "two_passes"
            or task.inputs["x"].shape[2] <= SHORT_ROW
            or not _FP32_EPS[0] <= parameters["eps"] <= _FP32_EPS[1]
        )
        found = self._computed(task, parameters["eps"], "FP64" if needs_fp64 else "FP32")
        if not needs_fp64 and _overflowed(found, task):
            found = self._computed(task, parameters["eps"], "FP64")
        if _overflowed(found, task):
            raise OverflowingInputError(operation.name)
        if parameters.get("training"):
            found = _after_training(found, task, tensors, parameters["momentum"])
        return _answered(found, task, given)

    def _computed(self, task: Task, eps: float, datatype: str) -> Arrays:
        dtype = DATATYPES[datatype]
        inputs = {name: array.astype(dtype, copy=False) for name, array in task.inputs.items()}
        inputs["eps"] = np.array(eps, dtype)
        if datatype == "FP32":
            return self._graphs[task.graph, datatype](inputs)
        if task.graph_fp64 != "batch_norm":
            size = inputs["x"].shape[2]
            inputs["average"] = np.full((size, 1), 1 / size)
        return self._graphs[task.graph_fp64, datatype](inputs)


def _answered(found: Arrays, task: Task, given: str) -> Arrays:
    """What was computed, in the caller's shapes and datatype; statistics of FP16 stay FP32."""
    kept = DATATYPES["FP64" if given == "FP64" else "FP32"]
    with np.errstate(over="ignore"):  # infinity, where the datatype holds no number as large
        answer = {
            name: found[name].reshape(shape).astype(kept, copy=False)
            for name, shape in task.shapes.items()
            if name in found
        }
        if given == "FP16":
            answer["y"] = answer["y"].astype(np.float16)
    return answer


def _overflowed(found: Arrays, task: Task) -> bool:
    """Whether squares of finite numbers became infinite: the reciprocal of their root is 0, or NaN."""
    return not (found["inv_std"] > 0).all() and bool(np.isfinite(task.inputs["x"]).all())


def _after_training(found: Arrays, task: Task, inputs: Arrays, momentum: float) -> Arrays:
    """The answer in x's order, and the running statistics moved on as torch moves them: by the unbiased variance."""
    n, channels, *_ = task.shapes["y"]
    count = found["y"].size // channels
    y = found["y"].reshape(channels, n, -1).swapaxes(0, 1)  # (1, C, N S) -> (N, C, S)
    batch = {"running_mean": found["mean"], "running_var": found["variance"] * (count / (count - 1))}
    before = {name: of_channels(inputs, name, channels, training=True) for name in batch}
    moved = {name: (1 - momentum) * before[name] + momentum * array.reshape(channels) for name, array in batch.items()}
    return {"y": y, "mean": found["mean"], "inv_std": found["inv_std"], **moved}


@dataclass(frozen=True)
class Rechecked:
    """An operation's certificate as it was exported, and as it holds here."""

    exported: Certificate
    here: Certificate


def recheck_operations(operators: dict[int, Operator]) -> dict[str, Rechecked]:
    """By operation's name: the error as measured at export, threads measured anew. operators: one for some threads."""
    exported = Certificates.model_validate_json((GRAPHS / CERTIFICATES_FILE).read_bytes())
    return {each.model_name: _rechecked(each, OPERATIONS[each.model_name], operators) for each in exported.root}


def _rechecked(exported: Certificate, operation: Operation, operators: dict[int, Operator]) -> Rechecked:
    runs: dict[int, Run] = {threads: partial(operator.run, operation) for threads, operator in operators.items()}
    fresh = thread_invariant(runs, list(_batches(operation)))
    claims = [fresh if claim.claim == fresh.claim else claim for claim in exported.claims]
    return Rechecked(exported, exported.model_copy(update={"claims": claims}))


def _batches(operation: Operation) -> Iterator[Arrays]:
    """Seeded inputs in every datatype that is computed in, in training as well where there is such a thing."""
    rng = np.random.default_rng(CHECK_SEED)
    ways: list[dict[str, Any]] = [{}]
    if "num_groups" in operation.parameters:
        ways = [{"num_groups": CHECK_SHAPE[1] // 2}]
    elif "training" in operation.parameters:
        ways = [{"training": False}, {"training": True}]
    for dtype, parameters in itertools.product(("f4", "f8"), ways):
        more = {name: rng.random(CHECK_SHAPE[1]).astype(dtype) for name in operation.more_inputs}
        yield {"x": rng.standard_normal(CHECK_SHAPE).astype(dtype), **more, **operation.checked(parameters)}
