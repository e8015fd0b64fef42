"""A module -> its graph and its weights, as they are served: what onnxruntime answers is what torch does."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from onnx import ModelProto
from safetensors.torch import save
from torch import Tensor, nn

from export.axes import advice, batches_tried, find_axes, tensors_of
from export.checkpoint import extents
from export.described_tensors import size_name
from export.errors import ExportError, one_line
from export.example import Place, few_rows, resized
from export.factory import CONSTANTS, IN_FEWER_BITS
from export.held_out import Arrays
from export.named_model import PREFIX, NamedModel
from export.onnx_export import convert, graphs_of, large_constants, point_into
from export.precision import unpack_in_graph
from export.ranges import Axes, failing
from export.recorded import rms_of
from export.recurrence import with_scans
from service import certificate
from service.certificate import Run
from service.manifest import ArtifactError

NO_NUMBER = "is not a number; a row whose mask leaves nothing does that, or the logarithm of a negative number"

_DIMENSION = re.compile(r"s\d+")


class OwnGraph(NamedTuple):
    """A graph that points into ``weights``, which of its sizes vary, and a run of it."""

    axes: Axes
    graph: ModelProto
    weights: bytes
    run: Run


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Its state_dict as it is now. A clone each: tied weights are each to stand under their own name."""
    return {
        name: tensor.detach().contiguous().clone()
        for name, tensor in module.state_dict().items()
        if isinstance(tensor, Tensor)
    }


def own_graph(
    model: NamedModel,
    state: Mapping[str, Tensor],
    stored: Mapping[str, Tensor],
    arrays: Arrays,
    extremes: Sequence[Arrays],
    batch_axis: int | None,
    names: list[str],
    limits: Mapping[Place, int],
    tolerance: float,
) -> OwnGraph:
    """The graph of a model in ``eval()`` mode and of its state. A size at which torch and onnxruntime differ is fixed.

    stored: weights in fewer bits (:mod:`export.precision`). names: of the outputs. extremes, limits: as of
    :func:`export.axes.find_axes`. tolerance: of what counts as a difference, relative. Raises ExportError.
    """
    traced = with_scans(model)
    if not isinstance(traced, NamedModel):
        raise TypeError("a copy is of the same class")
    fixed: dict[Place, str] = {}
    while True:
        program, axes = find_axes(model, traced, arrays, extremes, batch_axis, limits, fixed)
        try:
            graph = convert(program, model.names, names)
        except Exception as error:  # torch.onnx has a family of them, each with a long report
            cause = error.__cause__ or error
            raise ExportError(f"torch.onnx cannot convert the model: {one_line(cause)}. {advice(error)}") from error
        _rename(graph, batch_axis)
        unpack_in_graph(graph, stored)
        weights = _weights(state, stored, graph)
        places = extents(weights)
        point_into(graph, places | {PREFIX + name: extent for name, extent in places.items()})
        run = _run(graph, weights)
        wrong = _wrong_sizes(model, run, arrays, axes, batch_axis, tolerance)
        if not wrong:
            return OwnGraph(axes, graph, weights, run)
        fixed |= wrong


def _rename(graph: ModelProto, batch_axis: int | None) -> None:
    """Parameters as in the state_dict; sizes by what they are, not by torch's symbols."""
    named: dict[str, str] = {}
    for tensor in graph.graph.input:
        for axis, size in enumerate(tensor.type.tensor_type.shape.dim):
            if size.dim_param.isdigit():
                size.dim_value = int(size.dim_param)
            elif size.dim_param:
                what = "batch" if axis == 0 and batch_axis == 0 else size_name((tensor.name, axis))
                named.setdefault(size.dim_param, what)
    for tensor in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        for size in tensor.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = _DIMENSION.sub(lambda found: named.get(found[0], found[0]), size.dim_param)
    graphs = list(graphs_of(graph.graph))
    taken = {name for inner in graphs for node in inner.node for name in node.output}
    taken |= {tensor.name for inner in graphs for tensor in inner.input}
    without = {
        initializer.name: initializer.name.removeprefix(PREFIX)
        for inner in graphs
        for initializer in inner.initializer
        if initializer.name.removeprefix(PREFIX) not in taken  # a parameter may be called as a value of the graph is
    }
    for inner in graphs:
        for initializer in inner.initializer:
            initializer.name = without.get(initializer.name, initializer.name)
        for node in inner.node:
            node.input[:] = [without.get(name, name) for name in node.input]


def _weights(state: Mapping[str, Tensor], stored: Mapping[str, Tensor], graph: ModelProto) -> bytes:
    """``model.safetensors``: the state, and what else the graph is made of that is too large to live in it."""
    tensors = {**state, **stored}
    constants = large_constants(graph, tensors.keys() | {PREFIX + name for name in tensors})
    about = {
        key: json.dumps(sorted(names)) for key, names in ((CONSTANTS, constants), (IN_FEWER_BITS, stored)) if names
    }
    return save(tensors | constants, about or None)


def _run(graph: ModelProto, weights: bytes) -> Run:
    try:
        return certificate.all_outputs(certificate.open_session(graph.SerializeToString(), weights, 1))
    except ArtifactError as error:
        raise ExportError(f"onnxruntime cannot load the graph: {one_line(error.__cause__ or error)}") from error


def _wrong_sizes(
    model: NamedModel,
    run: Run,
    arrays: Arrays,
    axes: Axes,
    batch_axis: int | None,
    tolerance: float,
) -> dict[Place, str]:
    """The places of sizes at which onnxruntime fails or answers otherwise than torch, and how.

    Raises ExportError when it does so at the example's own, or at another number of rows.
    """

    def difference(inputs: Arrays) -> str:
        try:
            with torch.no_grad():
                expected = [tensor.numpy() for tensor in model(*tensors_of(inputs, model))]
        except Exception as error:  # whatever a module of anybody's raises
            return f"the module fails: {one_line(error)}"
        try:
            got = run(inputs)
        except Exception as error:  # onnxruntime has no common base class for its errors
            return f"onnxruntime fails: {one_line(error)}"
        for (name, ours), theirs in zip(got.items(), expected, strict=True):
            if ours.shape != theirs.shape:
                return f"{name} has shape {list(ours.shape)}, torch's has {list(theirs.shape)}"
            if np.isnan(theirs.astype("f8")).any():
                return f"{name} of torch itself {NO_NUMBER}"
            rms = rms_of(theirs)
            if not np.allclose(ours.astype("f8"), theirs.astype("f8"), rtol=tolerance, atol=tolerance * rms):
                off = certificate.max_difference(ours, theirs)["max_abs"]
                return f"{name} differs from torch's by up to {off:.3g}, where its root mean square is {rms:.3g}"
        return ""

    for of_so_many, inputs in batches_tried(arrays, batch_axis):
        if reason := difference(inputs):
            if reason.endswith(NO_NUMBER):
                raise ExportError(f"on the example {reason}")
            raise ExportError(
                f"the graph is not the module{of_so_many}: {reason}. A forward that looks at "
                "how it is run (torch.compiler.is_exporting, a size turned into a Python number) does that"
            )
    few = few_rows(arrays, batch_axis)
    return failing(axes.varying, lambda sizes: difference(resized(few, sizes)))
