"""A graph that came without its module -> an artifact, with the claims that can be measured without torch."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
import torch
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper
from rich.console import Console
from safetensors.torch import save
from torch import Tensor

from export.axes import BATCHES, Axis, one_line
from export.causes import causes, dynamic_quantisation, in_float64, with_causes
from export.certify import invariance
from export.checkpoint import extents
from export.errors import ExportError
from export.example import arrays_of, of_rows, resized
from export.folder import PROBE_SEED, THREADS, Files, hashes, sessions, versions, write_artifact
from export.held_out import Array, Arrays
from export.onnx_export import MAX_CONSTANT_ELEMENTS, graphs_of, point_into, strip
from export.report import report
from export.user_model import (
    MAX_ROWS,
    MIXED_ROWS,
    ONNX_TYPES,
    RECORDED_ROWS,
    TOLERANCE,
    check_names,
    input_of,
    least_rms_of,
    outputs_of,
    rows_to_measure,
)
from service import certificate
from service.manifest import ArtifactError, Certificate, InputTensor, Manifest, Probe, RecordedTensor

OF_TORCH = "only its module could tell, and it came without"
NOT_MEASURED = ("train_eval_identical", "torch_onnx_parity", "float64_error")


def adopt_model(
    graph_file: str | Path,
    example_inputs: Mapping[str, Tensor | Array],
    name: str,
    repository: str | Path = "artifacts",
    *,
    version: str | int = 1,
    batch_axis: Literal[0] | None = 0,
    max_rows: int = MAX_ROWS,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    samples: int = MIXED_ROWS,
    tolerance: float = TOLERANCE,
    task: str = "",
    console: Console | None = None,
) -> Manifest:
    """Write an artifact of an ONNX file and print what holds; arguments as of :func:`export.export_model`.

    Its weights go to ``model.safetensors`` under the names they have in the graph. What it answers is compared with
    onnxruntime's answers without optimisation (``runtime_parity``). Raises ExportError; the folder is then as it was.
    """
    check_names(name, str(version), batch_axis)
    arrays = arrays_of(example_inputs)
    rows = rows_to_measure(arrays, None, samples, batch_axis)
    graph, weights = _split(Path(graph_file))
    files_graph = graph.SerializeToString(deterministic=True)
    if {tensor.name for tensor in graph.graph.input} != arrays.keys():
        wanted = ", ".join(tensor.name for tensor in graph.graph.input)
        raise ExportError(f"the example has the inputs {', '.join(arrays)}, the graph takes {wanted}")
    arrays, rows = ({tensor.name: each[tensor.name] for tensor in graph.graph.input} for each in (arrays, rows))
    plain = _unoptimised(files_graph, weights)
    varying = _varying(graph, plain, arrays, batch_axis)
    probe = _probe(plain, rows, varying, batch_axis, tolerance)
    manifest = Manifest(
        name=name,
        version=str(version),
        batch_axis=batch_axis,
        max_rows=max_rows if batch_axis == 0 else 1,
        inputs=[_input(tensor, rows, varying, batch_axis, max_rows, bounds or {}) for tensor in graph.graph.input],
        outputs=outputs_of(graph, batch_axis),
        task=task or f"that of {Path(graph_file).name}",
        config={
            "not_measured": dict.fromkeys(NOT_MEASURED, OF_TORCH),
            "notes": list(_notes(graph, arrays)),
        },
        files=hashes(files_graph, weights),
        versions={key: each for key, each in versions(graph).items() if key != "torch"},
        probe=probe,
        certificate=Certificate(model_name=name, model_version=str(version), claims=[]),
    )
    try:
        runs = sessions(Files(manifest, files_graph, weights))
        claims = [certificate.torch_onnx_parity(runs[1], manifest, checked="export")]
    except ArtifactError as error:
        raise ExportError(f"onnxruntime cannot serve the graph: {one_line(error.__cause__ or error)}") from error
    if not claims[0].holds:
        raise ExportError(f"onnxruntime's optimisation changes what the graph computes: {claims[0].measured}")
    claims += invariance(manifest, runs, rows)
    claims = with_causes(claims, causes(None, manifest, graph, weights, claims, rows))
    manifest = manifest.model_copy(update={"certificate": manifest.certificate.model_copy(update={"claims": claims})})
    write_artifact(Path(repository) / name / manifest.version, manifest, files_graph, weights)
    report(manifest, console or Console())
    return manifest


def _split(file: Path) -> tuple[ModelProto, bytes]:
    """The graph, and its weights as a safetensors file that it points into. Raises ExportError."""
    try:
        graph = onnx.load(file)
        onnx.checker.check_model(graph)
    except Exception as error:  # of the file system, of protobuf, of the checker
        raise ExportError(f"{file} is no ONNX model: {one_line(error)}") from error
    if graph.functions:
        graph = onnx.inliner.inline_local_functions(graph)
    strip(graph)
    state: dict[str, Tensor] = {}
    for number, inner in enumerate(graphs_of(graph.graph)):
        _constants_as_initializers(inner)
        for initializer in inner.initializer:
            if initializer.name in state:  # of another graph; the names of a safetensors file are one space
                raise ExportError(
                    f"two graphs of the model have an initialiser {initializer.name!r} each (graph {number})"
                )
            array = numpy_helper.to_array(initializer)
            if array.size > MAX_CONSTANT_ELEMENTS or (array.dtype.kind == "f" and array.ndim):
                state[initializer.name] = torch.from_numpy(array.copy())
    weights = save(state)
    point_into(graph, extents(weights))
    names = {initializer.name for initializer in graph.graph.initializer}
    kept = [tensor for tensor in graph.graph.input if tensor.name not in names]  # before IR 4 weights were inputs too
    del graph.graph.input[:]
    graph.graph.input.extend(kept)
    return graph, weights


def _constants_as_initializers(graph: GraphProto) -> None:
    """What is too large to live in a node, as what can point into a file."""
    for node in list(graph.node):
        tensors = [attribute.t for attribute in node.attribute if attribute.name == "value"]
        if node.op_type == "Constant" and tensors and np.prod(tensors[0].dims) > MAX_CONSTANT_ELEMENTS:
            initializer = TensorProto()
            initializer.CopyFrom(tensors[0])
            initializer.name = node.output[0]
            graph.initializer.append(initializer)
            graph.node.remove(node)


def _unoptimised(graph: bytes, weights: bytes) -> certificate.Run:
    def options(threads: int) -> ort.SessionOptions:
        found = certificate.session_options(threads)
        found.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return found

    try:
        return certificate.all_outputs(certificate.open_session(graph, weights, THREADS[0], options))
    except ArtifactError as error:
        raise ExportError(f"onnxruntime cannot load the graph: {one_line(error.__cause__ or error)}") from error


def _varying(graph: ModelProto, run: certificate.Run, arrays: Arrays, batch_axis: int | None) -> list[Axis]:
    """The sizes that have a name in the graph, or none, and that can be another one. Raises ExportError."""
    groups: dict[str, list[tuple[str, int]]] = {}
    for tensor in graph.graph.input:
        for axis, size in enumerate(tensor.type.tensor_type.shape.dim):
            if not size.HasField("dim_value") and not (axis == 0 and batch_axis == 0):
                groups.setdefault(size.dim_param or f"{tensor.name}.{axis}", []).append((tensor.name, axis))

    def error(inputs: Arrays) -> str:
        try:
            run(inputs)
        except Exception as reason:  # onnxruntime has no common base class for its errors
            return one_line(reason)
        return ""

    for rows in BATCHES if batch_axis == 0 else (0,):
        if reason := error(of_rows(arrays, rows) if rows else arrays):
            raise ExportError(
                f"the graph cannot be run{f' for {rows} rows' if rows else ''}: {reason}. "
                + ("Export it with a batch that varies, or say --no-batch-axis" if rows else "")
            )
    found = []
    for places in groups.values():
        size = arrays[places[0][0]].shape[places[0][1]]
        if not error(resized(arrays, dict.fromkeys(places, size + 1))):
            found.append(Axis(tuple(places), size, 1, size + 1))
    return found


def _input(
    tensor: Any,
    rows: Arrays,
    varying: Sequence[Axis],
    batch_axis: int | None,
    max_rows: int,
    bounds: Mapping[str, tuple[float, float]],
) -> InputTensor:
    """As of an export, but that how large a size may be is not known."""
    found = input_of(tensor.name, rows[tensor.name], varying, batch_axis, max_rows, bounds.get(tensor.name))
    if ONNX_TYPES.get(found.datatype) != tensor.type.tensor_type.elem_type:
        raise ExportError(f"input {tensor.name} of the example is {found.datatype}, the graph takes another datatype")
    return found.model_copy(update={"max_shape": None})


def _probe(
    run: certificate.Run, rows: Arrays, varying: Sequence[Axis], batch_axis: int | None, tolerance: float
) -> Probe:
    first = of_rows(rows, RECORDED_ROWS) if batch_axis == 0 else rows
    batches = [first]
    if varying:
        sizes = {place: axis.other for axis in varying for place in axis.places}
        batches.append(resized(of_rows(first, 2) if batch_axis == 0 else first, sizes))
    answers = [run(batch) for batch in batches]
    return Probe(
        by="onnxruntime",
        seed=PROBE_SEED,
        shapes=[list(next(iter(batch.values())).shape) for batch in batches],
        inputs=[{name: RecordedTensor.of(array) for name, array in batch.items()} for batch in batches],
        outputs=Probe.pack(answers),
        atol=tolerance * least_rms_of(list(answers[0].values())),
        rtol=tolerance,
    )


def _notes(graph: ModelProto, arrays: Arrays) -> Iterator[str]:
    if dynamic_quantisation(graph):
        yield "dynamic quantisation: a row's answer depends on the largest number of its batch"
    if all(array.dtype != np.float64 for array in arrays.values()) and (where := in_float64(graph)):
        yield f"float64: {where} computes in it, though no input is FP64"
