"""The certificate: how a session is opened, and the claims that can be measured without torch.

``export`` measures them when it writes an artifact, the service measures them again on the machine it runs on.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import onnxruntime as ort

from service.manifest import (
    GRAPH_FILE,
    WEIGHTS_FILE,
    ArtifactError,
    Certificate,
    Checked,
    Claim,
    InputTensor,
    Manifest,
    Tensor,
)
from service.protocol import DATATYPES, Array, Arrays

Run = Callable[[Arrays], Arrays]
Batch = TypeVar("Batch")  # whatever a run takes

# What the claims of an artifact were measured on. ``recheck`` says so of those that it does not measure anew.
MEASURED_AT_EXPORT = "cpu, fp32"
OF_TORCH_ALONE = {"train_eval_identical", "full_precision"}

ORT_TYPES = {
    "BOOL": "tensor(bool)",
    "FP16": "tensor(float16)",
    "FP32": "tensor(float)",
    "FP64": "tensor(double)",
    **{f"{kind}{bits}": f"tensor({kind.lower()}{bits})" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)},
}

# Where onnxruntime looks for what the table of files in memory does not cover, such as a sparse tensor or one of a
# subgraph: without a folder that is wherever the service was started. Below a file there is nothing.
NO_FOLDER = f"{os.devnull}/nothing"

# Add + LayerNormalization as one kernel: twice the error at a large mean, and no faster (docs/decisions/0004).
DISABLED_OPTIMIZERS = ["SkipLayerNormFusion"]


def session_options(intra_op_threads: int) -> ort.SessionOptions:
    """The options every session of ours has, so that what is certified is what is served."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    # An arena is as large for ever as its largest run, a pattern is kept for each shape (docs/decisions/0014).
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    # Idle threads that spin take the cores of the others (onnxruntime#13808).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # its errors are raised as well, and the log is to have one form
    return options


def open_session(
    graph: bytes,
    weights: bytes,
    intra_op_threads: int,
    options_for: Callable[[int], ort.SessionOptions] = session_options,
) -> ort.InferenceSession:
    """A session over ``graph`` whose external data is ``weights`` and nothing else.

    Both are given as memory: the bytes that were hashed are the bytes that are served, and a location in the graph
    other than ``model.safetensors`` is an error, whatever lies on the disk. options_for: threads -> the options, which
    may name another execution provider than the CPU's. Raises :class:`ArtifactError`.
    """
    options = options_for(intra_op_threads)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NO_FOLDER)
    options.add_external_initializers_from_files_in_memory([WEIGHTS_FILE], [weights], [len(weights)])
    if options.has_providers():
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # see nodes_by_provider
    try:
        return _session(graph, options)
    except Exception as error:  # onnxruntime has no common base class for its errors
        raise ArtifactError(
            f"{GRAPH_FILE} cannot be loaded: it is damaged, or it refers to data outside {WEIGHTS_FILE}"
            + (", or the execution provider cannot compile it" if options.has_providers() else "")
        ) from error


def open_graph(graph: bytes, intra_op_threads: int) -> ort.InferenceSession:
    """A session over a graph that has no weights of its own."""
    return _session(graph, session_options(intra_op_threads))


def all_outputs(session: ort.InferenceSession) -> Run:
    """Arrays in, all outputs out, both by name."""
    names = [node.name for node in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def _session(graph: bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    # Whatever a provider in the options leaves, onnxruntime gives to the CPU provider by itself.
    providers = [] if options.has_providers() else ["CPUExecutionProvider"]
    # But where one fails, to begin or in a run, onnxruntime's Python would go over to the CPU's without an error.
    return ort.InferenceSession(
        graph, options, providers=providers, disabled_optimizers=DISABLED_OPTIMIZERS, enable_fallback=0
    )


def runner(session: ort.InferenceSession, manifest: Manifest) -> Run:
    """Arrays in, arrays out, both by name. Raises ArtifactError when names, datatypes or sizes are not the graph's."""
    for what, tensors, nodes in (
        ("inputs", manifest.inputs, session.get_inputs()),
        ("outputs", manifest.outputs, session.get_outputs()),
    ):
        declared, there = [tensor.name for tensor in tensors], [node.name for node in nodes]
        if declared != there:
            raise ArtifactError(f"the graph's {what} are {there}, the manifest's are {declared}")
        for tensor, node in zip(tensors, nodes, strict=True):
            if node.type != ORT_TYPES[tensor.datatype] or not _sizes_agree(node.shape, tensor.shape):
                raise ArtifactError(
                    f"in the graph {tensor.name} is {node.type} {node.shape}, "
                    f"in the manifest {tensor.datatype} {tensor.shape}"
                )
    names = [tensor.name for tensor in manifest.outputs]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, complete(inputs, manifest)), strict=True))

    return run


def _sizes_agree(graph: Sequence[int | str | None], declared: Sequence[int]) -> bool:
    """A size the graph fixes is the manifest's; one that varies in the graph may be fixed in the manifest."""
    return len(graph) == len(declared) and all(
        not isinstance(size, int) or size == expected for size, expected in zip(graph, declared, strict=True)
    )


def complete(inputs: Arrays, manifest: Manifest) -> Arrays:
    """All inputs in the manifest's order: zeros for an optional one that was left out."""
    if len(inputs) == len(manifest.inputs):
        return inputs
    shape = inputs[manifest.inputs[0].name].shape
    return {
        tensor.name: inputs[tensor.name] if tensor.name in inputs else zeros(tensor, shape)
        for tensor in manifest.inputs
    }


def zeros(tensor: Tensor, shape: Sequence[int]) -> Array:
    """An input of zeros, where the shape of the first input is ``shape``."""
    return np.zeros(input_shape(tensor, shape), DATATYPES[tensor.datatype])


def input_shape(tensor: Tensor, shape: Sequence[int]) -> list[int]:
    """An input's shape where that of the first input is ``shape``: a size that varies is the one of the same axis."""
    return [shape[axis] if size == -1 else size for axis, size in enumerate(tensor.shape)]


def sample(tensor: InputTensor, shape: Sequence[int], rng: np.random.Generator, mean: float = 0.0) -> Array:
    """Values the model accepts: N(mean, 1) where it is real-valued, uniform between its bounds otherwise."""
    dtype = DATATYPES[tensor.datatype]
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        low = 0 if tensor.minimum is None else int(tensor.minimum)
        high = low + 1 if tensor.maximum is None else int(tensor.maximum)
        return rng.integers(low, high, shape, dtype=dtype, endpoint=True)
    values = rng.standard_normal(shape) + mean
    return np.clip(values, tensor.minimum, tensor.maximum).astype(dtype)


def probe_inputs(manifest: Manifest) -> list[Arrays]:
    """The inputs of the manifest's probe, one entry a shape, which is that of the first input.

    Raises ArtifactError when recorded ones cannot be read.
    """
    if manifest.probe.inputs is not None:
        return [
            {tensor.name: batch[tensor.name].array(tensor.datatype) for tensor in manifest.inputs}
            for batch in manifest.probe.inputs
        ]
    rng = np.random.default_rng(manifest.probe.seed)
    return [samples(manifest, shape, rng) for shape in manifest.probe.shapes]


def samples(manifest: Manifest, shape: Sequence[int], rng: np.random.Generator, mean: float = 0.0) -> Arrays:
    """A sample of every input, where the first has this shape and, if it is real-valued, this mean."""
    first, *others = manifest.inputs
    return {
        first.name: sample(first, shape, rng, mean),
        **{tensor.name: sample(tensor, input_shape(tensor, shape), rng) for tensor in others},
    }


def max_difference(ours: Array, theirs: Array) -> dict[str, float | int]:
    """Largest absolute difference, and largest distance in units in the last place of float32.

    Numbers of which one is not finite are counted instead, where there are any: JSON could not carry the difference.
    """
    finite = np.isfinite(ours) & np.isfinite(theirs)
    nonfinite = int(finite.size - finite.sum())
    ours, theirs = ours[finite], theirs[finite]
    return {
        "max_abs": float(np.max(np.abs(ours.astype("f8") - theirs.astype("f8")), initial=0)),
        "max_ulp": int(np.max(np.abs(_ordered(ours) - _ordered(theirs)), initial=0)),
    } | ({"nonfinite": nonfinite} if nonfinite else {})


def _ordered(values: Array) -> Array:
    """float32 -> integers in the same order, one apart where the numbers are neighbours."""
    bits = np.ascontiguousarray(values, "<f4").view("<i4").astype("i8")
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def torch_onnx_parity(
    run: Run, manifest: Manifest, checked: Checked = "start", *, tolerance: float | None = None
) -> Claim:
    """Outputs for the probe against torch's, as stored in the manifest, at the optimisation level that serves.

    tolerance: in place of the manifest's, relative to torch's number and to the root mean square of them all. A sum
    errs in proportion to what is added up, however small it comes out.
    """
    probe, expected = manifest.probe, manifest.probe.expected()
    atol, rtol = probe.atol, probe.rtol
    if tolerance is not None:
        atol, rtol = tolerance * float(np.sqrt(np.mean(expected.astype("f8") ** 2))), tolerance
    by = "torch" if probe.by == "torch" else "onnxruntime without optimisation, as adopted"
    outputs = [run(inputs) for inputs in probe_inputs(manifest)]
    got = np.concatenate([array.astype("<f4").ravel() for arrays in outputs for array in arrays.values()])
    if got.size != expected.size:
        raise ArtifactError(f"the probe gives {got.size} numbers, the manifest holds {expected.size}")
    return Claim(
        claim="torch_onnx_parity" if probe.by == "torch" else "runtime_parity",
        holds=bool(np.allclose(got, expected, rtol=rtol, atol=atol)),
        measured=max_difference(got, expected) | {"numbers": int(got.size)},
        how=f"onnxruntime against {by} on the {'seeded' if probe.inputs is None else 'recorded'} probe, "
        f"shapes {probe.shapes}: "
        f"|difference| <= {atol:g} + {rtol:g} |{by}|"
        + (f", the first {tolerance:g} of the root mean square of {by}'s numbers" if tolerance is not None else ""),
        checked=checked,
    )


def batch_invariant(
    runs: dict[int, Run],
    pools: Sequence[Arrays],
    sizes: Iterable[int],
    *,
    every_position: bool = False,
    checked: Checked = "start",
) -> Claim:
    """Rows alone against the same rows in batches of each size, bitwise: first, middle and last, or every position.

    runs: threads -> a run with so many. pools: rows to take, (R, ...) by name; sizes above R are left out for them.
    """
    compared = mismatching = 0
    sizes = sorted(set(sizes))
    for run, rows in itertools.product(runs.values(), pools):
        alone: dict[int, Arrays] = {}
        count = len(next(iter(rows.values())))
        for size in sizes:
            if size > count:
                break
            forward = np.arange(size)
            # Turned round, every row but the middle one stands somewhere else.
            for order in (forward, forward[::-1]) if every_position else (forward,):
                outputs = run({name: array[order] for name, array in rows.items()})
                for position in range(size) if every_position else sorted({0, size // 2, size - 1}):
                    row = int(order[position])
                    if row not in alone:
                        alone[row] = run({name: _elsewhere(array[row : row + 1]) for name, array in rows.items()})
                    compared += 1
                    mismatching += any(
                        array.shape[0] != size or array[position].tobytes() != alone[row][name][0].tobytes()
                        for name, array in outputs.items()
                    )
    positions = "at every position" if every_position else "at the first, middle and last position"
    return Claim(
        claim="batch_invariant",
        holds=mismatching == 0,
        measured={"rows_compared": compared, "mismatching_rows": mismatching, "batch_sizes": sizes},
        how=f"a row's output alone and {positions} of batches of these sizes, "
        f"with {' and '.join(map(str, runs))} intra-op threads, compared bitwise",
        checked=checked,
    )


def _elsewhere(array: Array) -> Array:
    """The same array one element past a boundary of 64 bytes, as a request's tensor may lie behind its header.

    A kernel that sums from one boundary to the next adds in another order there (docs/decisions/0006).
    """
    memory = np.empty(array.nbytes + 128, "u1")
    start = -memory.ctypes.data % 64 + array.itemsize
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def thread_invariant(
    runs: Mapping[int, Callable[[Batch], Arrays]], batches: Sequence[Batch], checked: Checked = "start"
) -> Claim:
    """Every output of each batch with one intra-op thread against the same with more, bitwise."""
    (_, one), *others = sorted(runs.items())
    compared = mismatching = 0
    for batch in batches:
        expected = one(batch)
        for _, run in others:
            outputs = run(batch)
            compared += 1
            mismatching += any(outputs[name].tobytes() != array.tobytes() for name, array in expected.items())
    return Claim(
        claim="thread_invariant",
        holds=mismatching == 0,
        measured={"batches_compared": compared, "mismatching_batches": mismatching, "threads": sorted(runs)},
        how="whole batches with one intra-op thread and with more, compared bitwise",
        checked=checked,
    )


def invariance_rows(manifest: Manifest, number: int = 0) -> Arrays:
    """``max_rows`` rows as of a probe's shape, the first or another: seeded, or the recorded ones over and over."""
    shape = manifest.probe.shapes[number]
    if manifest.probe.inputs is not None:
        recorded = probe_inputs(manifest)[number]
        order = np.arange(manifest.max_rows) % shape[0]
        return {name: array[order] for name, array in recorded.items()}
    return samples(manifest, (manifest.max_rows, *shape[1:]), np.random.default_rng(manifest.probe.seed))


def warm_up(run: Run, manifest: Manifest) -> None:
    """The first run of a session allocates and repacks; let no client wait for that."""
    for inputs in probe_inputs(manifest):
        run(inputs)


def recheck(
    manifest: Manifest,
    runs: dict[int, Run],
    serving_threads: int = 1,
    *,
    measured_on: str = MEASURED_AT_EXPORT,
    tolerance: float | None = None,
) -> Certificate:
    """The certificate as it holds here: parity and invariance measured anew, the other claims as exported.

    runs: threads -> a run with so many, one thread and ``serving_threads`` among them. measured_on: what they run on;
    every claim says it, and those that were measured on another and are not measured here say that. tolerance: of
    parity, see ``torch_onnx_parity``.
    """
    batches = probe_inputs(manifest)
    fresh = [torch_onnx_parity(runs[serving_threads], manifest, tolerance=tolerance)]
    if manifest.batch_axis is not None:
        rows = invariance_rows(manifest)
        # A kernel may share out the rows when there are several, and the numbers of a row when there is one.
        batches += [rows, {name: array[:1] for name, array in rows.items()}]
        fresh.append(batch_invariant(runs, [rows], (1, 2, manifest.max_rows)))
    fresh.append(thread_invariant(runs, batches))
    claims = {claim.claim: _measured_elsewhere(claim, measured_on) for claim in manifest.certificate.claims}
    for claim in fresh:
        here = claim.model_copy(update={"how": f"{claim.how}; on {measured_on}"})
        claims[claim.claim] = _together(claims.get(claim.claim), here)
    return manifest.certificate.model_copy(update={"claims": list(claims.values())})


def _measured_elsewhere(exported: Claim, measured_on: str) -> Claim:
    """A claim of the export; where it is of the runtime, and another one serves, its ``how`` says so."""
    if measured_on == MEASURED_AT_EXPORT or exported.claim in OF_TORCH_ALONE:
        return exported
    how = f"{exported.how}; on {MEASURED_AT_EXPORT}, not measured on {measured_on}"
    return exported.model_copy(update={"how": how})


def _together(exported: Claim | None, fresh: Claim) -> Claim:
    """The fresh claim, unless the export, which tries more, found that it does not hold.

    Those of the export's figures that only torch can give (``training_mode``) stay.
    """
    if exported is None:
        return fresh
    if not exported.holds:
        return exported
    kept = {name: figure for name, figure in exported.measured.items() if name not in fresh.measured}
    how = f"{fresh.how}; {', '.join(kept)}: as measured at export" if kept else fresh.how
    return fresh.model_copy(update={"measured": {**fresh.measured, **kept}, "how": how})


def broken_claims(exported: Certificate, here: Certificate) -> list[Claim]:
    """The claims that held at export and do not hold here."""
    held = {claim.claim for claim in exported.claims if claim.holds}
    return [claim for claim in here.claims if claim.claim in held and not claim.holds]
