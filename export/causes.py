"""Why a claim does not hold: found by running the module part by part, and the graph node by node."""

import copy
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, helper
from torch import Tensor, nn

from export.axes import tensors_of
from export.certify import named_outputs, without_dropout
from export.errors import one_line
from export.example import of_rows
from export.folder import unoptimised
from export.held_out import Array, Arrays
from export.module_calls import bits_differ, changed_state, described, first_difference, listed, named_modules
from export.named_model import NamedModel
from export.notes import REAL, dynamic_quantisation
from service import certificate
from service.manifest import Claim, Manifest

PATIENCE_S = 20.0  # for trying a large model's modules one by one


def unsteady(model: NamedModel, arrays: Arrays) -> str:
    """Why the module in ``eval()`` mode answers equal inputs differently; nothing where it does not."""

    def run(twin: nn.Module, seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        with torch.no_grad():
            return [tensor.clone() for tensor in twin(*tensors_of(arrays, model))]

    carried = copy.deepcopy(model)
    first = run(carried, 0)
    if bits_differ(first, run(copy.deepcopy(model), 1)):
        one, other = (lambda seed=seed: run(copy.deepcopy(model), seed) for seed in (0, 1))
        where = first_difference(one, other, bits_differ)
        if bits_differ(first, run(copy.deepcopy(model), 0)):
            return f"an operation {where} is non-deterministic, on equal random numbers too"
        return (
            f"random numbers are drawn {where}, as dropout does that is left on; have it drop only `if self.training`"
        )
    if bits_differ(first, run(carried, 0)):
        return (
            f"it keeps state from one call to the next ({', '.join(changed_state(model, arrays)) or 'outside of it'}): "
            "take it as an input and return it as an output"
        )
    return ""


def causes(
    model: NamedModel | None,
    manifest: Manifest,
    graph: ModelProto,
    weights: bytes,
    claims: Sequence[Claim],
    rows: Arrays,
) -> dict[str, str]:
    """For each claim that does not hold the likely cause, in words, where one was found."""
    reduced = any(claim.claim == "full_precision" for claim in claims)
    finders: dict[str, Callable[[], str]] = {
        "train_eval_identical": lambda: in_training_mode(model, manifest, rows) if model else "",
        "torch_onnx_parity": lambda: of_optimisation(graph, weights, manifest),
        "batch_invariant": lambda: of_the_batch(model, manifest, graph, weights, rows),
        "thread_invariant": lambda: of_threads(manifest, graph, weights, rows),
        "float64_error": lambda: (
            "onnxruntime's kernels round more than torch's; more rows (samples, data) tell whether it was these"
        ),
        "metric_preserved": lambda: f"see {'full_precision' if reduced else 'torch_onnx_parity'}",
        "full_precision": lambda: "the weights have fewer bits than they were trained with",
    }
    found = {}
    for claim in claims:
        if not claim.holds and claim.claim in finders:
            try:
                found[claim.claim] = finders[claim.claim]()
            except Exception as error:  # a search for a cause must not cost the export
                found[claim.claim] = f"not found: {one_line(error)}"
    return found


def with_causes(claims: Sequence[Claim], found: Mapping[str, str]) -> list[Claim]:
    """The claims, the likely cause among what was measured of those that do not hold."""
    return [
        claim.model_copy(update={"measured": claim.measured | {"cause": found[claim.claim]}})
        if claim.claim in found
        else claim
        for claim in claims
    ]


def in_training_mode(model: NamedModel, manifest: Manifest, rows: Arrays) -> str:
    """Which modules answer otherwise in ``train()`` mode: each alone is put into it."""
    twin = without_dropout(model).eval()
    expected = list(named_outputs(twin, manifest, rows).values())
    statistics: list[str] = []
    random: list[str] = []
    others: list[str] = []
    started, untried = perf_counter(), ""
    for path, module in named_modules(twin):
        if perf_counter() - started > PATIENCE_S:
            untried = f"; {path} and the modules behind it were not tried, {PATIENCE_S:g} s were over"
            break
        buffers = {name: tensor.clone() for name, tensor in module.named_buffers(recurse=False)}
        module.training = True
        try:
            torch.manual_seed(0)
            got = list(named_outputs(twin, manifest, rows).values())
            torch.manual_seed(1)
            again = list(named_outputs(twin, manifest, rows).values())
        finally:
            module.training = False
        gathers = any(not torch.equal(tensor, getattr(module, name)) for name, tensor in buffers.items())
        with torch.no_grad():
            for name, tensor in buffers.items():
                getattr(module, name).copy_(tensor)
        if not _differ(expected, got):
            continue
        kind = statistics if gathers else random if _differ(got, again) else others
        kind.append(described(path, module))
    parts = []
    if statistics:
        parts.append(
            f"{listed(statistics)}: in training it normalises by the batch, in eval by what it gathered, as BatchNorm "
            "does; LayerNorm, GroupNorm and RMSNorm are the same in both"
        )
    if random:
        parts.append(f"{listed(random)}: draws random numbers in training that are no module's dropout")
    if others:
        parts.append(f"{listed(others)}: computes something else in training")
    if not parts:
        parts.append("no module of those tried does it alone" if untried else "modules only together do it")
    return "; ".join(parts) + untried


def _differ(ours: Sequence[Array], theirs: Sequence[Array]) -> bool:
    return any(a.tobytes() != b.tobytes() for a, b in zip(ours, theirs, strict=True))


def of_the_batch(model: NamedModel | None, manifest: Manifest, graph: ModelProto, weights: bytes, rows: Arrays) -> str:
    """Where a row's answer begins to depend on the rows beside it: in the module, or only in the runtime."""
    run = certificate.runner(certificate.open_session(graph.SerializeToString(), weights, 1), manifest)
    try:
        alone, together, position = _company_that_matters(run, manifest, rows)
    except LookupError:
        return (
            "not found; of rows that lie elsewhere in memory, a sum over an axis may add up in another order, which a "
            "product with weights instead does not"
        )

    def by_torch(inputs: Arrays) -> Callable[[], Any]:
        return lambda: model and named_outputs(model, manifest, inputs)

    def differ(ours: list[Tensor], theirs: list[Tensor]) -> bool:
        pairs = zip(ours, theirs, strict=False)
        return any(apart(_array(a), _array(b)) > REAL for a, b in pairs)

    def apart(ours: Array, theirs: Array) -> float:
        return _apart(ours, theirs, len(next(iter(together.values()))), position)

    outputs = [named_outputs(model, manifest, inputs) for inputs in (alone, together)] if model else []
    if model and any(apart(outputs[0][name], outputs[1][name]) > REAL for name in outputs[0]):
        where = first_difference(by_torch(alone), by_torch(together), differ)
        return f"{where} a row is computed from the others of its batch, as by a mean over axis 0 or batch statistics"
    try:
        node, distance = _first_node(graph, weights, alone, together, apart)
    except LookupError:
        return "last bits, and only in the graph as onnxruntime fuses it"
    if dynamic_quantisation(graph):
        return (
            "dynamic quantisation: its scale is that of the largest number of the whole batch; quantise the weights "
            "alone, or statically"
        )
    if distance > REAL:
        return f"the graph's {node} computes a row from the other rows of its batch, as a reduction over axis 0 does"
    more = "; a matrix product with weights of 1 / T takes a mean over T without that" if "Reduce" in node else ""
    return f"onnxruntime's {node} adds up in another order in another number of rows: last bits ({distance:.1g}){more}"


def _array(tensor: Tensor) -> Array:
    found: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # which numpy has not
    return found


def _company_that_matters(run: certificate.Run, manifest: Manifest, rows: Arrays) -> tuple[Arrays, Arrays, int]:
    """A row alone, a batch that it is in, and where, such that its outputs differ. Raises LookupError."""
    for pool in (*certificate.probe_inputs(manifest), rows):
        for size in (2, 3, 7, 16, manifest.max_rows):
            together = of_rows(pool, size)
            outputs = run(together)
            for position in range(size):
                alone = {name: array[position : position + 1] for name, array in together.items()}
                for name, array in run(alone).items():
                    if array[0].tobytes() != outputs[name][position].tobytes():
                        return alone, together, position
    raise LookupError("no company")


def _apart(alone: Array, together: Array, size: int, position: int) -> float:
    """How far a row is from what it is alone, relative to the root mean square; 0 where there are no rows."""
    if alone.ndim == 0 or together.ndim == 0 or len(alone) != 1 or len(together) != size:
        return 0.0
    if alone.shape[1:] != together.shape[1:] or alone.dtype.kind not in "fiub":
        return 0.0
    ours, theirs = alone[0], together[position]
    if ours.tobytes() == theirs.tobytes():
        return 0.0
    ours, theirs = ours.astype("f8"), theirs.astype("f8")
    rms = float(np.sqrt(np.mean(np.square(ours)))) or 1.0
    return float(np.max(np.abs(ours - theirs))) / rms or float(np.finfo("f8").tiny)  # as -0 is from 0


def of_threads(manifest: Manifest, graph: ModelProto, weights: bytes, rows: Arrays) -> str:
    """The first node whose bits depend on the number of threads."""
    inputs = of_rows(rows, manifest.max_rows) if manifest.batch_axis == 0 else rows
    try:
        node, _ = _first_node(graph, weights, inputs, inputs, _any_bit, threads=(1, 4))
    except LookupError:
        return "only in the graph as onnxruntime fuses it"
    return f"onnxruntime's {node} divides a sum among its threads"


def _any_bit(ours: Array, theirs: Array) -> float:
    return float(ours.tobytes() != theirs.tobytes())


def _first_node(
    graph: ModelProto,
    weights: bytes,
    one: Arrays,
    other: Arrays,
    apart: Callable[[Array, Array], float],
    threads: tuple[int, int] = (1, 1),
) -> tuple[str, float]:
    """Operator of the first node whose outputs are apart, and how far. Raises LookupError when none are."""
    opened = copy.deepcopy(graph)
    there = {tensor.name for tensor in opened.graph.output}
    names = [(node.op_type, name) for node in opened.graph.node for name in node.output if name]
    opened.graph.output.extend(helper.make_empty_tensor_value_info(name) for _, name in names if name not in there)
    content = opened.SerializeToString()
    ours, theirs = (
        certificate.open_session(content, weights, count).run([name for _, name in names], inputs)
        for count, inputs in zip(threads, (one, other), strict=True)
    )
    for (operator, _), a, b in zip(names, ours, theirs, strict=True):
        if (distance := apart(a, b)) > 0:
            return operator, distance
    raise LookupError("no node")


def of_optimisation(graph: ModelProto, weights: bytes, manifest: Manifest) -> str:
    """Whether the graph as it stands is right, and onnxruntime's optimisation of it is not."""
    if not np.isfinite(manifest.probe.expected()).all():
        return "torch's own answer is not finite; a row whose mask leaves nothing does that"

    session = certificate.open_session(graph.SerializeToString(), weights, 1, unoptimised)
    if certificate.torch_onnx_parity(certificate.runner(session, manifest), manifest).holds:
        return "an optimisation of onnxruntime: without any the answers are torch's"
    return "an operation that torch.onnx converts to another function, or rounds more than `tolerance` allows"
