"""A graph that came without its module -> an artifact, with the claims that can be measured without torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper
from rich.console import Console
from safetensors.torch import save
from torch import Tensor

from export.axes import batches_tried
from export.causes import causes, with_causes
from export.certify import certified, invariance
from export.checkpoint import extents
from export.described_tensors import ONNX_TYPES, inputs_of, outputs_of, sizes_in_words
from export.errors import ExportError, one_line
from export.example import Place, arrays_of, datatype_of, few_rows, resized, rows_to_measure
from export.folder import THREADS, Files, hashes, in_words, place_of, sessions, unoptimised, versions, write_artifact
from export.held_out import Array, Arrays
from export.limits import Bounds, bounds_of, check_mixed, check_values, extremes, limits_of, rows_served
from export.notes import dynamic_quantisation, float64_within
from export.onnx_export import MAX_CONSTANT_ELEMENTS, graphs_of, point_into, strip
from export.ranges import Axes, Tried, check_limits, failing, find_ranges
from export.recorded import recorded_probe
from export.report import report
from export.user_model import MIXED_ROWS, TOLERANCE
from service import certificate
from service.manifest import OF_TORCH, Certificate, Manifest

NO_MODULE = "only its module could tell, and it came without"


def adopt_model(
    graph_file: str | Path,
    example_inputs: Mapping[str, Tensor | Array],
    name: str,
    repository: str | Path = "artifacts",
    *,
    version: str | int = 1,
    batch_axis: Literal[0] | None = 0,
    max_rows: int | None = None,
    max_shape: Mapping[str, Sequence[int]] | None = None,
    bounds: Bounds | None = None,
    samples: int = MIXED_ROWS,
    tolerance: float = TOLERANCE,
    replace: bool = False,
    task: str = "",
    console: Console | None = None,
) -> Manifest:
    """Write an artifact of an ONNX file and print what holds; arguments as of :func:`export.export_model`.

    Its weights go to ``model.safetensors`` under the names they have in the graph. What it answers is compared with
    onnxruntime's answers without optimisation (``runtime_parity``). Raises ExportError; the folder is then as it was.
    """
    folder = place_of(repository, name, str(version), replace=replace)
    arrays = arrays_of(example_inputs)
    rows = rows_to_measure(arrays, None, samples, batch_axis)
    bounds, limits = bounds_of(bounds or {}, rows), limits_of(max_shape or {}, arrays, batch_axis, max_rows)
    graph, weights = _split(Path(graph_file))
    content = graph.SerializeToString(deterministic=True)
    _check_inputs(graph, arrays)
    arrays, rows = ({tensor.name: each[tensor.name] for tensor in graph.graph.input} for each in (arrays, rows))
    with in_words(name):
        plain = certificate.all_outputs(certificate.open_session(content, weights, THREADS[0], unoptimised))

        def error(inputs: Arrays) -> str:
            try:
                plain(inputs)
            except Exception as reason:  # onnxruntime has no common base class for its errors
                return one_line(reason)
            return ""

        _check_rows(error, arrays, batch_axis)
        check_values(error, arrays, bounds)
        check_mixed(error, rows, samples if batch_axis == 0 else 0)
        tried = [(few_rows(each, batch_axis), error) for each in (arrays, *extremes(arrays, bounds).values())]
        axes = _axes(graph, tried, batch_axis, limits)
        max_rows = rows_served(max_rows, plain, rows, batch_axis)
        manifest = Manifest(
            name=name,
            version=str(version),
            batch_axis=batch_axis,
            max_rows=max_rows,
            inputs=inputs_of(rows, axes.varying, batch_axis, max_rows, bounds),
            outputs=outputs_of(graph, batch_axis),
            task=task or f"that of {Path(graph_file).name}",
            config={
                "sizes": sizes_in_words(arrays, axes, batch_axis, max_rows),
                "not_measured": dict.fromkeys(sorted(OF_TORCH - {"full_precision", "metric_preserved"}), NO_MODULE),
                "notes": list(_notes(graph, arrays)),
            },
            files=hashes(content, weights),
            versions={key: each for key, each in versions(graph).items() if key != "torch"},
            probe=recorded_probe(plain, rows, axes.varying, batch_axis, tolerance, by="onnxruntime"),
            certificate=Certificate(model_name=name, model_version=str(version), claims=[]),
        )
        runs = sessions(Files(manifest, content, weights))
        claims = [certificate.torch_onnx_parity(runs[1], manifest, checked="export")]
        if not claims[0].holds:
            raise ExportError(f"onnxruntime's optimisation changes what the graph computes: {claims[0].measured}")
        claims += invariance(manifest, runs, rows)
    manifest = certified(manifest, with_causes(claims, causes(None, manifest, graph, weights, claims, rows)))
    write_artifact(folder, manifest, content, weights)
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


def _check_inputs(graph: ModelProto, arrays: Arrays) -> None:
    if {tensor.name for tensor in graph.graph.input} != arrays.keys():
        wanted = ", ".join(tensor.name for tensor in graph.graph.input)
        raise ExportError(f"the example has the inputs {', '.join(arrays)}, the graph takes {wanted}")
    for tensor in graph.graph.input:
        datatype = datatype_of(arrays[tensor.name])
        if ONNX_TYPES.get(datatype) != tensor.type.tensor_type.elem_type:
            raise ExportError(f"input {tensor.name} of the example is {datatype}, the graph takes another datatype")


def _check_rows(error: Callable[[Arrays], str], arrays: Arrays, batch_axis: int | None) -> None:
    for of_so_many, inputs in batches_tried(arrays, batch_axis):
        if reason := error(inputs):
            raise ExportError(
                f"the graph cannot be run{of_so_many}: {reason}. "
                + ("Export it with a batch that varies, or say --no-batch-axis" if of_so_many else "")
            )


def _axes(
    graph: ModelProto,
    tried: Sequence[Tried],
    batch_axis: int | None,
    limits: Mapping[Place, int],
) -> Axes:
    """The sizes that have a name in the graph, or none, and how far each can go. Raises ExportError."""
    arrays, error = tried[0]
    groups: dict[str, list[Place]] = {}
    fixed: dict[Place, str] = {}
    for tensor in graph.graph.input:
        for axis, size in enumerate(tensor.type.tensor_type.shape.dim):
            if axis == 0 and batch_axis == 0:
                continue
            if size.HasField("dim_value"):
                fixed[tensor.name, axis] = "the graph's own size"
            else:
                groups.setdefault(size.dim_param or f"{tensor.name}.{axis}", []).append((tensor.name, axis))
    opened = {tuple(places): None for places in groups.values()}
    while True:
        varying, failed = find_ranges(tried, opened, limits)
        wrong = failing(varying, lambda sizes: error(resized(arrays, sizes)))
        fixed |= failed | wrong
        if not wrong:
            break
        opened = {places: None for places in opened if places[0] not in wrong}
    check_limits(limits, arrays, fixed)
    return Axes(varying, fixed)


def _notes(graph: ModelProto, arrays: Arrays) -> Iterator[str]:
    if dynamic_quantisation(graph):
        yield "dynamic quantisation: a row's answer depends on the largest number of its batch"
    if where := float64_within(graph, arrays):
        yield f"float64: {where} computes in it, though no input is FP64"
