"""The claims of a certificate at export: those that need torch are measured here, the others by the service's code."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd  # the base class of every Dropout
from torch.overrides import TorchFunctionMode

from export.errors import ExportError
from export.held_out import Array, Arrays, HeldOut
from service import certificate
from service.certificate import Run
from service.manifest import Claim, Manifest, Metric

MEANS = (0.0, 1e3, 1e4)  # where a variance computed as E[x^2] - E[x]^2 loses everything
ERROR_ROWS = 64
TRAINING_ROWS = 8
BATCH_SIZES = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256)
POOL_ELEMENTS = 2**14  # of held-out rows tried in every batch: long rows cost more, and need fewer to be tried
POSITIONS_S = 10.0  # for every position of batches of many sizes; a model that takes longer is tried in fewer sizes
FEWEST_SIZES = 5  # up to 7 rows
LARGEST = float(np.finfo("f4").max)  # for an error that is no number: JSON has no infinity
METRIC_TOLERANCE = 1e-5  # relative: another prediction would show at once, a last bit must not


def forward(model: nn.Module, x: Array) -> Array:
    """The module's output for its one input, in the mode the module is in."""
    (output,) = _outputs(model, [x])
    return output


def named_outputs(model: nn.Module, manifest: Manifest, inputs: Arrays) -> Arrays:
    """The module's outputs by name, in the mode the module is in; an optional input left out is zeros."""
    names = [tensor.name for tensor in manifest.outputs]
    return outputs_by_name(model, names, certificate.complete(inputs, manifest))


def outputs_by_name(model: nn.Module, names: Sequence[str], inputs: Arrays) -> Arrays:
    """The module's outputs for all of its inputs, in its order, under these names."""
    return dict(zip(names, _outputs(model, inputs.values()), strict=True))


def _outputs(model: nn.Module, inputs: Iterable[Array]) -> list[Array]:
    with torch.no_grad():
        outputs = model(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs))
    return [tensor.numpy() for tensor in ((outputs,) if isinstance(outputs, torch.Tensor) else outputs)]


def certify(model: nn.Module, manifest: Manifest, runs: dict[int, Run], held_out: HeldOut | None) -> list[Claim]:
    """Every claim, measured. runs: intra-op threads -> the exported graph run with so many."""
    pools = _probe_rows(manifest)
    if held_out:
        count = max(2, min(manifest.max_rows, POOL_ELEMENTS // next(iter(held_out.inputs.values()))[0].size))
        pools.append({name: array[:count] for name, array in held_out.inputs.items()})
    rows = pools[-1]
    sizes = [size for size in BATCH_SIZES if size < manifest.max_rows] + [manifest.max_rows]
    batch = certificate.batch_invariant(runs, pools, sizes, every_position=True, checked="export")
    claims = [
        train_eval_identical(model, manifest, rows),
        certificate.torch_onnx_parity(runs[1], manifest, checked="export"),
        float64_error(model, runs[1], manifest),
        _with_training_mode(batch, model, manifest, rows),
        certificate.thread_invariant(runs, pools, checked="export"),
    ]
    if held_out:
        claims.append(metric_preserved(model, runs[1], manifest, held_out))
    return claims


def without_dropout(model: nn.Module) -> nn.Module:
    """A copy of the model, so that running statistics stay as trained, whose dropout drops nothing."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):  # nn.LSTM, nn.MultiheadAttention
            module.dropout = 0.0  # type: ignore[assignment]  # mypy takes it for a submodule
    return twin


def by_row(outputs: Arrays, manifest: Manifest) -> Arrays:
    """The outputs with rows along the first axis; without a batch axis all of it is one row."""
    return outputs if manifest.batch_axis == 0 else {name: array[None] for name, array in outputs.items()}


def _differences(ours: Arrays, theirs: Arrays) -> dict[str, float | int]:
    """How many rows differ in any bit of any output, and the largest absolute difference."""
    pairs = [(ours[name], theirs[name]) for name in ours]
    differ = [any(a[row].tobytes() != b[row].tobytes() for a, b in pairs) for row in range(len(pairs[0][0]))]
    return {
        "rows_compared": len(differ),
        "mismatching_rows": sum(differ),
        "max_abs": max(certificate.max_difference(a, b)["max_abs"] for a, b in pairs),
    }


def train_eval_identical(model: nn.Module, manifest: Manifest, rows: Arrays) -> Claim:
    """Torch's output in ``train()`` mode against ``eval()`` mode, bitwise: what LN keeps and BN does not."""
    twin = without_dropout(model)
    found = [
        _differences(*(by_row(named_outputs(twin.train(mode), manifest, batch), manifest) for mode in (True, False)))
        for batch in batches_of(rows, manifest)
    ]
    measured = {key: (max if key == "max_abs" else sum)(each[key] for each in found) for key in found[0]}
    return Claim(
        claim="train_eval_identical",
        holds=measured["mismatching_rows"] == 0,
        measured=measured,
        how="torch's output in train() and in eval() mode for the same batch, dropout off, compared bitwise",
        checked="export",
    )


def training_mode(model: nn.Module, manifest: Manifest, rows: Arrays) -> dict[str, float | int]:
    """In ``train()`` mode: a row among some rows, and at the same place among others of an equally large batch."""
    twin = without_dropout(model).train()
    count = min(TRAINING_ROWS, len(next(iter(rows.values()))) // 2)
    together = {name: array[:count] for name, array in rows.items()}
    among_others = []
    for index in range(count):
        batch = {name: array[count : 2 * count].copy() for name, array in rows.items()}
        for name, array in together.items():
            batch[name][index] = array[index]
        among_others.append(named_outputs(twin, manifest, batch))
    expected = named_outputs(twin, manifest, together)
    moved = {name: np.stack([outputs[name][i] for i, outputs in enumerate(among_others)]) for name in expected}
    return _differences(expected, moved)


def float64_error(model: nn.Module, run: Run, manifest: Manifest, cases: Mapping[str, Arrays] | None = None) -> Claim:
    """Torch's and the runtime's error against the model computed in float64, for rows of each mean or of each case.

    float64 norms take the mean first and the variance about it (two passes), so their own error is far below float32's.
    Medians over rows are compared: at a large mean the softmax of a Transformer tips over on a last bit in single rows,
    for torch as for the runtime, and the largest error then says who was less lucky. The largest stand beside them.
    """
    exact_model = copy.deepcopy(model).eval().double()
    measured: dict[str, dict[str, float]] = {}
    holds, count = True, 0
    for case, rows in (_of_each_mean(manifest) if cases is None else cases).items():
        in_float64 = {name: _in_float64(array) for name, array in rows.items()}
        with _AllInFloat64():
            exact = by_row(named_outputs(exact_model, manifest, in_float64), manifest)
        by_torch = _row_errors(by_row(named_outputs(model.eval(), manifest, rows), manifest), exact)
        served = _row_errors(by_row(run(rows), manifest), exact)
        largest = [
            np.max(np.abs(array[np.isfinite(array)]), initial=0) for array in exact.values() if array.dtype.kind == "f"
        ]
        # Of anybody's module: an ulp of an output of large numbers would hide all errors of another.
        ulp = float(np.spacing(np.float32((max if cases is None else min)(largest, default=0.0))))
        holds &= bool(np.median(served) <= 2 * np.median(by_torch) + 2 * ulp)
        count = max(count, len(served))
        measured[case] = {
            "torch_median": float(np.median(by_torch)),
            "served_median": float(np.median(served)),
            "torch_max": float(by_torch.max()),
            "served_max": float(served.max()),
            "ulp": ulp,
        }
    return Claim(
        claim="float64_error",
        holds=holds,
        measured=measured,
        how=f"each row's largest absolute error against the same weights in float64, over {count} rows; holds "
        "when the runtime's median is at most twice torch's, plus 2 ulp of the "
        + ("largest output" if cases is None else "output whose largest number is smallest"),
        checked="export",
    )


class _AllInFloat64(TorchFunctionMode):
    """Where a forward asks for float32, as by ``.float()`` or ``dtype=``, it gets float64; so it does by default."""

    def __enter__(self) -> Self:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        torch.set_default_dtype(self._default)

    def __torch_function__(
        self, function: Any, _types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The same call in float64."""

        def wide(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        function = Tensor.double if function is Tensor.float else function
        return function(*map(wide, args), **{key: wide(value) for key, value in (kwargs or {}).items()})


def _of_each_mean(manifest: Manifest) -> dict[str, Arrays]:
    is_real = manifest.inputs[0].datatype.startswith("FP")
    rng = np.random.default_rng(manifest.probe.seed)
    shape = (ERROR_ROWS, *manifest.probe.shapes[-1][1:])
    return {
        f"mean {mean:g}" if is_real else "all rows": certificate.samples(manifest, shape, rng, mean)
        for mean in (MEANS if is_real else (0.0,))
    }


def _in_float64(array: Array) -> Array:
    return array.astype("f8") if array.dtype.kind == "f" else array


def _row_errors(got: Arrays, exact: Arrays) -> Array:
    """The largest absolute error in each row of any output: (N, ...) -> (N,)."""
    errors = [_errors(got[name], array).reshape(len(array), -1).max(axis=1) for name, array in exact.items()]
    largest: Array = np.max(errors, axis=0)
    return largest


def _errors(got: Array, exact: Array) -> Array:
    """Absolute; none where both are the same infinity, as of a masked logit, and the largest where one is not."""
    got, exact = got.astype("f8"), exact.astype("f8")
    with np.errstate(invalid="ignore"):
        errors = np.where(got == exact, 0.0, np.abs(got - exact))
    return np.nan_to_num(errors, nan=LARGEST, posinf=LARGEST)


def metric_preserved(model: nn.Module, run: Run, manifest: Manifest, held_out: HeldOut) -> Claim:
    """The held-out metrics by torch and by the runtime."""
    ours = held_out.metrics(_in_batches(run, held_out.inputs, manifest))
    theirs = held_out.metrics(named_outputs(model.eval(), manifest, held_out.inputs))
    return Claim(
        claim="metric_preserved",
        holds=all(abs(ours[name] - theirs[name]) <= METRIC_TOLERANCE * abs(theirs[name]) for name in theirs),
        measured={name: {"torch": theirs[name], "served": ours[name]} for name in theirs},
        how=f"{held_out.split} of {held_out.dataset}; equal within {METRIC_TOLERANCE:g} of torch's figure",
        checked="export",
    )


def certify_example(
    model: nn.Module,
    manifest: Manifest,
    runs: dict[int, Run],
    rows: Arrays,
    held_out: HeldOut | None,
    trained: nn.Module | None = None,
) -> tuple[list[Claim], dict[str, str]]:
    """Every claim, measured on the recorded inputs and on ``rows``, and why those are missing that cannot be.

    rows: inputs of any number of rows; without a batch axis the example. runs: intra-op threads -> the exported graph.
    trained: the model whose metric is to be preserved, where its weights are not those of ``model``.
    """
    claims, missing = [], {}

    def measure(claim: str, measured: Callable[[], Claim]) -> None:
        try:
            claims.append(measured())
        except Exception as error:  # whatever a module of anybody's raises in another mode or in another float
            missing[claim] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"

    measure("train_eval_identical", lambda: train_eval_identical(model, manifest, rows))
    claims.append(certificate.torch_onnx_parity(runs[1], manifest, checked="export"))  # without it nothing is served
    some = {name: array[:ERROR_ROWS] for name, array in rows.items()} if manifest.batch_axis == 0 else rows
    measure("float64_error", lambda: float64_error(model, runs[1], manifest, {"example": some}))
    claims += invariance(manifest, runs, rows, model)
    if held_out:
        measure("metric_preserved", lambda: metric_preserved(trained or model, runs[1], manifest, held_out))
    return claims, missing


def invariance(manifest: Manifest, runs: dict[int, Run], rows: Arrays, model: nn.Module | None = None) -> list[Claim]:
    """``batch_invariant``, where there is a batch axis, and ``thread_invariant``; see :func:`certify_example`."""
    if manifest.batch_axis is None:
        return [certificate.thread_invariant(runs, [*certificate.probe_inputs(manifest), rows], checked="export")]
    pools = [*_probe_rows(manifest), rows]
    return [
        _batch_invariant(model, manifest, runs, pools, rows),
        certificate.thread_invariant(runs, [*pools[:-1], *batches_of(rows, manifest)], checked="export"),
    ]


def _batch_invariant(
    model: nn.Module | None, manifest: Manifest, runs: dict[int, Run], pools: list[Arrays], rows: Arrays
) -> Claim:
    """At every position of batches as large as time allows, and at three of one of ``max_rows``."""
    started = perf_counter()
    runs[1](pools[0])
    seconds_a_row = (perf_counter() - started) / manifest.max_rows
    sizes = [size for size in BATCH_SIZES if size < manifest.max_rows] + [manifest.max_rows]
    while len(sizes) > FEWEST_SIZES and 2 * sum(sizes) * len(runs) * len(pools) * seconds_a_row > POSITIONS_S:
        sizes.pop()
    claim = certificate.batch_invariant(runs, pools, sizes, every_position=True, checked="export")
    if sizes[-1] < manifest.max_rows:
        largest = certificate.batch_invariant(runs, pools[:1], [manifest.max_rows], checked="export")
        added = {name: claim.measured[name] + largest.measured[name] for name in claim.measured}
        how = f"{claim.how}; in one of {manifest.max_rows} at the first, middle and last alone"
        holds = claim.holds and largest.holds
        claim = claim.model_copy(update={"holds": holds, "measured": added, "how": how})
    if model is None:
        return claim
    try:
        return _with_training_mode(claim, model, manifest, rows)
    except Exception as error:  # see certify_example
        how = f"{claim.how}; training_mode cannot be measured: {type(error).__name__}: {error}"
        return claim.model_copy(update={"how": how})


def _with_training_mode(claim: Claim, model: nn.Module, manifest: Manifest, rows: Arrays) -> Claim:
    """``batch_invariant`` of what is served, and beside it what training does."""
    measured = claim.measured | {"training_mode": training_mode(model, manifest, rows)}
    how = f"{claim.how}; training_mode: torch's output for a row among others of an equally large batch"
    return claim.model_copy(update={"measured": measured, "how": how})


def _probe_rows(manifest: Manifest) -> list[Arrays]:
    """``max_rows`` rows as of each shape of the probe."""
    return [certificate.invariance_rows(manifest, number) for number in range(len(manifest.probe.shapes))]


def certified(manifest: Manifest, claims: Sequence[Claim]) -> Manifest:
    """The manifest with its certificate, and the metric that it says. Raises ExportError where parity does not hold."""
    for claim in claims:
        if claim.claim == "torch_onnx_parity" and not claim.holds:
            raise ExportError(f"{manifest.name}: onnxruntime's answers are not torch's: {claim.measured}; {claim.how}")
    found = manifest.certificate.model_copy(update={"claims": [*claims]})
    return manifest.model_copy(update={"metric": main_metric(claims), "certificate": found})


def main_metric(claims: Sequence[Claim]) -> Metric | None:
    """The manifest's metric: the first figure of ``metric_preserved``, where there is one."""
    for claim in claims:
        if claim.claim == "metric_preserved":
            name, figures = next(iter(claim.measured.items()))
            return Metric(name=name, torch=figures["torch"], served=figures["served"])
    return None


def _in_batches(run: Run, inputs: Arrays, manifest: Manifest) -> Arrays:
    parts = [run(batch) for batch in batches_of(inputs, manifest)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def batches_of(rows: Arrays, manifest: Manifest) -> list[Arrays]:
    """The rows in order, in parts about equally large, none of more than are served at once."""
    if manifest.batch_axis is None:
        return [rows]
    count = -(-len(next(iter(rows.values()))) // manifest.max_rows)
    parts = {name: np.array_split(array, count) for name, array in rows.items()}
    return [{name: each[number] for name, each in parts.items()} for number in range(count)]
