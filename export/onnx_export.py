"""A torch module -> ONNX, whose initialisers point into ``model.safetensors`` and hold no byte of their own."""

import inspect
import logging
import math
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence

import torch
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper
from torch import Tensor, nn

from export.checkpoint import Extent
from export.errors import ExportError
from service.manifest import WEIGHTS_FILE, InputTensor, OutputTensor

MAX_CONSTANT_ELEMENTS = 64  # a scale or a shape may live in the graph, a mask or a weight may not
DIMENSIONS = ("batch", "time", "height", "width")
_Sizes = dict[int, torch.export.Dim]  # axis -> the name of a size that varies


def export_graph(
    model: nn.Module,
    example: Sequence[Tensor],
    inputs: Sequence[InputTensor],
    outputs: Sequence[OutputTensor],
    weights: Mapping[str, Extent],
) -> ModelProto:
    """The graph of ``model`` in eval mode; every size that is -1 in an input's shape varies.

    Nothing is folded at export: a folded constant would no longer be the trained bytes. onnxruntime folds at load.
    Raises ExportError when a constant of the graph is not a tensor of the checkpoint.
    """
    sizes = [
        {axis: torch.export.Dim(DIMENSIONS[axis], min=1) for axis, size in enumerate(tensor.shape) if size == -1}
        for tensor in inputs
    ]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.export's own deprecations, which nobody here can mend
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            model.eval(),
            tuple(example),
            dynamo=True,
            optimize=False,
            verbose=False,
            dynamic_shapes=_by_parameter(model, sizes),
            input_names=[tensor.name for tensor in inputs],
            output_names=[tensor.name for tensor in outputs],
        )
    graph = _stripped(program)
    point_into(graph, weights)
    return graph


def convert(program: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> ModelProto:
    """The graph of an exported program, its initialisers with their bytes in it. Raises what torch.onnx raises."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        converted = torch.onnx.export(
            program, dynamo=True, optimize=False, verbose=False, input_names=[*inputs], output_names=[*outputs]
        )
    return _stripped(converted)


def _stripped(program: torch.onnx.ONNXProgram | None) -> ModelProto:
    if program is None:
        raise ExportError("torch.onnx.export returned no program")
    graph: ModelProto = program.model_proto
    strip(graph)
    return graph


def large_constants(model: ModelProto, weights: Container[str]) -> dict[str, Tensor]:
    """What the graph holds that is too large to live there and is not in the checkpoint, by name."""
    return {
        initializer.name: torch.from_numpy(numpy_helper.to_array(initializer).copy())
        for graph in graphs_of(model.graph)
        for initializer in graph.initializer
        if initializer.name not in weights and math.prod(initializer.dims) > MAX_CONSTANT_ELEMENTS
    }


def _by_parameter(model: nn.Module, sizes: list[_Sizes]) -> tuple[_Sizes | tuple[_Sizes, ...], ...]:
    """One entry for each parameter of ``forward``, as torch.export wants it: those of a ``*state`` are one tuple."""
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(sizes)
    single = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*sizes[:single], tuple(sizes[single:]))


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and the graphs inside its nodes: the body of a Scan, the branches of an If."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from graphs_of(inner)


def strip(model: ModelProto) -> None:
    """Remove what describes the exporting machine (stack traces with its paths), not the model."""
    model.ClearField("metadata_props")
    for graph in graphs_of(model.graph):
        for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")


def point_into(model: ModelProto, weights: Mapping[str, Extent]) -> None:
    """Replace each initialiser's bytes by their place in the checkpoint. Raises ExportError where one has none."""
    for graph in graphs_of(model.graph):
        for initializer in graph.initializer:
            extent = weights.get(initializer.name)
            if extent is None:
                if math.prod(initializer.dims) > MAX_CONSTANT_ELEMENTS:
                    raise ExportError(
                        f"the graph holds a constant {initializer.name!r} of {math.prod(initializer.dims)} elements "
                        f"that is not in the checkpoint; above {MAX_CONSTANT_ELEMENTS} it must be computed in the "
                        "graph, or be a parameter or buffer"
                    )
                continue
            # The field that holds the bytes; dims and datatype stay.
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                initializer.ClearField(field)
            initializer.data_location = TensorProto.EXTERNAL
            for key, value in (("location", WEIGHTS_FILE), ("offset", extent.offset), ("length", extent.length)):
                initializer.external_data.add(key=key, value=str(value))
        for node in graph.node:
            for attribute in node.attribute:
                elements = max(math.prod(attribute.t.dims), len(attribute.floats), len(attribute.ints))
                if node.op_type == "Constant" and elements > MAX_CONSTANT_ELEMENTS:
                    raise ExportError(
                        f"the graph holds a Constant of {elements} elements; above {MAX_CONSTANT_ELEMENTS} it must be "
                        "computed in the graph, or be a parameter or buffer"
                    )


def opset(model: ModelProto) -> int:
    """The version of the default operator set that the graph uses."""
    version: int = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return version
