"""How the normalisation operations are run: which graph, in which datatype, a block of rows at a time.

The graphs are made by ``export`` and ship with the service; docs/decisions/0006 says how they keep their accuracy. That
rests on onnxruntime's CPU kernels, so they are computed by those whatever ``execution_provider`` the models have.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from service.certificate import all_outputs, open_graph, thread_invariant
from service.errors import OverflowingInputError
from service.manifest import CERTIFICATES_FILE, Certificate, Certificates
from service.ops import OPERATIONS, Layout, Operation, Task
from service.protocol import Array, Arrays

GRAPHS = Path(__file__).parent / "graphs"

# Up to so many numbers to a mean, roundings of FP32 may by chance exceed twice torch's error (2 of 1000 rows of two);
# beyond so many, the kernel's naive sum of squares does (1 of 4 rows of 32 768, every row of a million).
SHORT_ROW, LONG_ROW = 64, 8192
# Numbers computed at once: intermediates stay in the cache, and memory does not grow with the request.
BLOCK_NUMBERS = 2**17
FP64_COSTS = 4  # times as much as FP32
GROUP_COSTS = 64  # as much as so many numbers
CHECK_SEED, CHECK_SHAPE = 7, (64, 8, 96)

_FP32_EPS = float(np.finfo("f4").tiny), float(np.finfo("f4").max)
_SINGLE = np.dtype(np.float32)
_EVERYTHING = slice(None)
_WHOLE = (_EVERYTHING, _EVERYTHING)


class Operator:
    """Runs the operations' graphs; safe to be called by several threads at once."""

    def __init__(self, intra_op_threads: int = 1) -> None:
        self._sessions: dict[tuple[str | None, str], ort.InferenceSession] = {}
        for file in sorted(GRAPHS.glob("*.onnx")):
            name, datatype = file.stem.split(".")
            self._sessions[name, datatype] = open_graph(file.read_bytes(), intra_op_threads)
        self._graphs = {key: all_outputs(session) for key, session in self._sessions.items()}

    def computation(self, layout: Layout, dtype: np.dtype[Any], wanted: Sequence[str]) -> Callable[[Task], Arrays]:
        """How tasks of this layout are run, where x has this datatype and these outputs are wanted.

        In FP32 a small one is often one run of one graph on the arrays as they came. Finding that out once, and not for
        each task, makes layer_norm of one row 10 us sooner, of 70 in all.
        """
        rows, groups, size = layout.x
        repeated = any(shape[1] not in (1, size) for shape in layout.of_groups.values())
        if dtype != _SINGLE or computes_in_fp64(layout, dtype) or repeated or rows * groups * size > BLOCK_NUMBERS:
            return self.run
        session, eps = self._sessions[layout.graph, "FP32"], np.array(layout.eps, _SINGLE)
        names, shapes = [*wanted, "inv_std"], [(name, layout.answered[name]) for name in wanted]

        def run(task: Task) -> Arrays:
            *found, inv_std = session.run(names, {"eps": eps, **task.arrays})
            if np.count_nonzero(inv_std > 0) != inv_std.size:
                return self.run(task)
            return {name: array.reshape(shape) for (name, shape), array in zip(shapes, found, strict=True)}

        return run

    def run(self, task: Task) -> Arrays:
        """All outputs, in x's datatype; ``mean`` and ``inv_std`` of FP16 in FP32.

        Computed in FP32 or FP64 and rounded once to what is answered.
        Raises OverflowingInputError when FP64 cannot hold the squares of x.
        """
        layout = task.layout
        rows, groups, size = layout.x
        fed = _Fed(task)
        if rows * groups * size <= BLOCK_NUMBERS:
            return _answered(task, self._block(task, fed, _WHOLE))
        found: Arrays = {}
        for block in _blocks(rows, groups, size):
            for name, array in self._block(task, fed, block).items():
                if name not in found:
                    found[name] = np.empty((rows, groups, array.shape[2]), array.dtype)
                found[name][block] = array
        return _answered(task, found)

    def _block(self, task: Task, fed: "_Fed", block: "_Block") -> Arrays:
        """Y in the datatype it is answered in, and the statistics, for some rows or some groups of one row."""
        layout, answered = task.layout, task.x.dtype
        if computes_in_fp64(layout, answered):
            found = self._graphs[layout.graph_fp64, "FP64"](fed.block("FP64", block))
            _check(task, found, block)
            return _rounded(found, answered)
        found = self._graphs[layout.graph, "FP32"](fed.block("FP32", block))
        if (found["inv_std"] > 0).all():
            return _rounded(found, answered)
        # The squares of a row are more than FP32 can hold, or something in it is not finite. Only that row is computed
        # anew: what stands beside it changes no bit of the others.
        again = self._graphs[layout.graph_fp64, "FP64"](fed.block("FP64", block))
        _check(task, again, block)
        mended = ~(found["inv_std"] > 0)
        again = _rounded(again, answered)
        return {name: np.where(mended, again[name], array) for name, array in _rounded(found, answered).items()}


_Block = tuple[slice, slice]  # rows, groups


def _blocks(rows: int, groups: int, size: int) -> Iterator[_Block]:
    """Parts of a tensor of about BLOCK_NUMBERS: whole rows, or groups of one row; a group is never split."""
    if groups * size <= BLOCK_NUMBERS:
        step = BLOCK_NUMBERS // (groups * size)
        for row in range(0, rows, step):
            yield slice(row, row + step), _EVERYTHING
    else:
        step = max(1, BLOCK_NUMBERS // size)
        for row, group in itertools.product(range(rows), range(0, groups, step)):
            yield slice(row, row + 1), slice(group, group + step)


class _Fed:
    """What a graph is fed, for each block; what does not change from block to block is made once."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._kept: dict[str, Arrays] = {}

    def block(self, datatype: str, block: _Block) -> Arrays:
        dtype = np.dtype("f8" if datatype == "FP64" else "f4")
        return {"x": self._task.x[block].astype(dtype, copy=False), **self._beside(datatype, dtype, block[1])}

    def _beside(self, datatype: str, dtype: np.dtype[Any], groups: slice) -> Arrays:
        if groups == _EVERYTHING and datatype in self._kept:
            return self._kept[datatype]
        task, layout = self._task, self._task.layout
        size = layout.x[2]
        made: Arrays = {"eps": np.array(layout.eps, dtype)}
        for name in layout.of_groups:  # (G, A), each for K / A numbers that lie together
            part = task.arrays[name][groups].astype(dtype, copy=False)
            made[name] = part if part.shape[1] in (1, size) else part.repeat(size // part.shape[1], axis=1)
        if datatype == "FP64" and layout.graph_fp64 != "batch_norm":
            made["average"] = np.full((size, 1), 1 / size)
        if groups == _EVERYTHING:
            self._kept[datatype] = made
        return made


def computes_in_fp64(layout: Layout, dtype: np.dtype[Any]) -> bool:
    """Whether FP64 is asked for, or FP32 would not be good enough. dtype: of x."""
    return (
        layout.graph is None
        or dtype == np.float64
        or not SHORT_ROW < layout.x[2] <= LONG_ROW
        or not _FP32_EPS[0] <= layout.eps <= _FP32_EPS[1]
    )


def cost(layout: Layout, dtype: np.dtype[Any]) -> int:
    """What it takes to run, in numbers of FP32. dtype: of x."""
    rows, groups, size = layout.x
    return rows * groups * (GROUP_COSTS + size * (FP64_COSTS if computes_in_fp64(layout, dtype) else 1))


def _check(task: Task, found: Arrays, block: _Block) -> None:
    """Raises OverflowingInputError where squares of finite numbers became infinite: inv_std is then 0, or NaN."""
    if "inv_std" not in found or (found["inv_std"] > 0).all():
        return
    finite = np.isfinite(task.x[block]).all(axis=2, keepdims=True)
    if (finite & ~(found["inv_std"] > 0)).any():
        raise OverflowingInputError(task.layout.operation)


def _rounded(found: Arrays, answered: np.dtype[Any]) -> Arrays:
    """Y to the datatype that is answered; statistics as they were computed."""
    return {**found, "y": _cast(found["y"], answered)}


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):  # infinity, where the datatype holds no number as large
        return array.astype(dtype)


def _answered(task: Task, found: Arrays) -> Arrays:
    """In the shapes and the order of the caller's x."""
    layout, answered = task.layout, task.x.dtype
    if layout.graph_fp64 == "batch_norm":
        found = found | _given_statistics(task)
    if layout.momentum is not None:
        rows, channels, *_ = layout.answered["y"]
        found = found | _moved_on(task, found, layout.momentum)
        found["y"] = found["y"].reshape(channels, rows, -1).swapaxes(0, 1)  # (1, C, N S) -> (N, C, S)
    kept = answered if answered.itemsize >= _SINGLE.itemsize else _SINGLE
    return {
        name: _cast(found[name].reshape(shape), answered if name == "y" else kept)
        for name, shape in layout.answered.items()
    }


def _given_statistics(task: Task) -> Arrays:
    mean, variance = (task.arrays[name].astype("f8") for name in ("running_mean", "running_var"))
    return {"mean": mean, "inv_std": 1 / np.sqrt(variance + task.layout.eps)}


def _moved_on(task: Task, found: Arrays, momentum: float) -> Arrays:
    """The running statistics after one batch, as torch moves them: by the unbiased variance."""
    count = task.x.shape[2]
    batch = {"running_mean": found["mean"], "running_var": found["variance"] * (count / (count - 1))}
    return {
        name: (1 - momentum) * task.before[name].astype("f8") + momentum * array.reshape(-1)
        for name, array in batch.items()
    }


# ---- their certificates ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rechecked:
    """An operation's certificate as it was exported, and as it holds here."""

    exported: Certificate
    here: Certificate


def recheck_operations(operators: dict[int, Operator]) -> dict[str, Rechecked]:
    """By operation's name: the error as measured at export, threads measured anew. operators: one for some threads."""
    exported = Certificates.model_validate_json((GRAPHS / CERTIFICATES_FILE).read_bytes())
    by_name = {certificate.model_name: certificate for certificate in exported.root}
    return {name: _rechecked(by_name[name], operation, operators) for name, operation in OPERATIONS.items()}


def _rechecked(exported: Certificate, operation: Operation, operators: dict[int, Operator]) -> Rechecked:
    runs = {threads: operator.run for threads, operator in operators.items()}
    fresh = thread_invariant(runs, list(_tasks(operation)))
    claims = [fresh if claim.claim == fresh.claim else claim for claim in exported.claims]
    return Rechecked(exported, exported.model_copy(update={"claims": claims}))


def _tasks(operation: Operation) -> Iterator[Task]:
    """Seeded inputs in every datatype that is computed in, in training as well where there is such a thing."""
    rng = np.random.default_rng(CHECK_SEED)
    ways: list[dict[str, Any]] = [{}]
    if "num_groups" in operation.parameters:
        ways = [{"num_groups": CHECK_SHAPE[1] // 2}]
    elif "training" in operation.parameters:
        ways = [{"training": False}, {"training": True}]
    for dtype, parameters in itertools.product(("f4", "f8"), ways):
        more = {name: rng.random(CHECK_SHAPE[1]).astype(dtype) for name in operation.more_inputs}
        x = rng.standard_normal(CHECK_SHAPE).astype(dtype)
        yield operation.task({"x": x, **more}, parameters)
