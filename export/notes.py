"""What breaks no claim and is worth knowing all the same: state, float64, padding."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from onnx import ModelProto, TensorProto

from export.axes import tensors_of
from export.example import of_rows, resized
from export.held_out import Arrays
from export.limits import Bounds
from export.module_calls import changed_state, listed
from export.named_model import NamedModel
from export.onnx_export import graphs_of
from export.ranges import Axis

REAL = 1e-4  # relative: a difference above it is another computation, one below a rounding


def notes(
    model: NamedModel, graph: ModelProto, arrays: Arrays, batch_axis: int | None, varying: Sequence[Axis]
) -> list[str]:
    """What breaks no claim and is worth knowing all the same, each measured."""
    found = []
    if changed := changed_state(model, arrays):
        found.append(f"forward changes {listed(changed)} in place; as served it stays as exported")
    if where := float64_within(graph, arrays):
        found.append(
            f"float64: {where} computes in it, though no input is FP64; a constant of float64 does that (torch.tensor "
            "of a numpy number, .double()), and costs time: make it of x.dtype"
        )
    found += [words for axis in varying if (words := padding(model, arrays, batch_axis, axis))]
    return found


def notes_of_bounds(bounds: Bounds, given: Bounds) -> list[str]:
    """Which inputs are bounded by what the example happens to hold."""
    return [
        f"{name} is served from {bounds[name][0]:g} to {bounds[name][1]:g}, which is what was given; bounds (--bounds "
        f"{name}=LOW:HIGH) say otherwise"
        for name in sorted(bounds.keys() - given.keys())
    ]


def dynamic_quantisation(graph: ModelProto) -> bool:
    """Whether the graph takes a scale from the numbers of a run: from those of the whole batch, that is."""
    return any(node.op_type == "DynamicQuantizeLinear" for inner in graphs_of(graph.graph) for node in inner.node)


def float64_within(graph: ModelProto, arrays: Arrays) -> str:
    """What computes in float64 though no input is of it; nothing where there is none."""
    return "" if any(array.dtype == np.float64 for array in arrays.values()) else in_float64(graph)


def in_float64(graph: ModelProto) -> str:
    """The operator of the first node with an output in float64; nothing where there is none."""
    for inner in graphs_of(graph.graph):
        doubles = {
            tensor.name
            for tensor in (*inner.value_info, *inner.output)
            if tensor.type.tensor_type.elem_type == TensorProto.DOUBLE
        }
        for node in inner.node:
            if doubles & set(node.output):
                return str(node.op_type)
    return ""


def padding(model: NamedModel, arrays: Arrays, batch_axis: int | None, axis: Axis) -> str:
    """What one more position, masked, does to the answers of the rest; nothing where no boolean input goes along."""
    masks = [place for place in axis.places if arrays[place[0]].dtype.kind == "b"]
    if not masks or axis.size >= axis.most:
        return ""
    inputs = of_rows(arrays, 2) if batch_axis == 0 else arrays
    changes: Mapping[bool, float] = {
        value: _padded_change(model, inputs, axis, masks, value) for value in (True, False)
    }
    value = min(changes, key=lambda key: changes[key])
    name = masks[0][0]
    if changes[value] > REAL:
        return (
            f"padding: one more position changes the answers of the rest by {changes[value]:.1g}, relative, whether "
            f"{name} is True or False there: padded rows are answered otherwise than unpadded ones"
        )
    return (
        f"padding: positions where {name} is {value} change the answers of the rest by {changes[value]:.1g}, relative"
    )


def _padded_change(
    model: NamedModel, arrays: Arrays, axis: Axis, masks: Sequence[tuple[str, int]], value: bool
) -> float:
    longer = resized(arrays, axis.at(axis.size + 1))
    for name, along in masks:
        longer[name] = longer[name].copy()
        np.moveaxis(longer[name], along, 0)[-1] = value
    with torch.no_grad():
        ours, theirs = (model(*tensors_of(inputs, model)) for inputs in (arrays, longer))
    largest = 0.0
    for a, b in zip(ours, theirs, strict=True):
        same = b[tuple(slice(size) for size in a.shape)].double()  # the rest, where the output has the axis too
        rms = float(a.double().square().mean().sqrt()) or 1.0
        largest = max(largest, float((a.double() - same).abs().max()) / rms)
    return largest
