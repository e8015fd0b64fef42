"""Weights in fewer bits, on request: stored so, computed with in FP32, and the loss of it measured.

The numbers between layers stay FP32. To scale those by what a run's batch holds, as dynamic quantisation does, would
let a row's answer depend on its company.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn

from export.certify import batches_of, named_outputs
from export.errors import ExportError
from export.held_out import Arrays
from export.named_model import PREFIX
from export.onnx_export import graphs_of
from export.recorded import rms_of
from service.certificate import max_difference
from service.manifest import Claim, Manifest

Precision = Literal["fp16", "int8"]
PRECISIONS = get_args(Precision)

SCALE = ".scale"  # behind the name of an int8 weight: what a step of it is worth
STEPS = 127
_ONNX_TYPES = {torch.float16: TensorProto.FLOAT16, torch.int8: TensorProto.INT8}


def reduce_weights(module: nn.Module, precision: Precision) -> dict[str, Tensor]:
    """Round the module's weights in place; how they are stored, by name.

    Weights are its FP32 parameters of two axes or more. fp16: the nearest. int8: the nearest of 255 equal steps, each
    of an index along the first axis (an output, a token, a channel) by its own scale: w = q * scale. Raises ExportError
    when one is too large for fp16.
    """
    stored: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.dtype != torch.float32 or parameter.ndim < 2:
            continue
        weight = parameter.detach()
        if precision == "fp16":
            packed = {name: weight.half()}
            if not packed[name].isfinite().all() and weight.isfinite().all():
                raise ExportError(f"{name} has {float(weight.abs().max()):g} in it, fp16 goes up to 65504: use int8")
        else:
            largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
            scale = torch.where(largest == 0, 1.0, largest / STEPS)
            packed = {name: (weight / scale).round().to(torch.int8), name + SCALE: scale}
        stored |= packed
    with torch.no_grad():
        for name, weight in restored(stored).items():
            module.get_parameter(name).copy_(weight)
    return stored


def restored(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stored weights as the FP32 that is computed with; what is not stored in fewer bits is left out."""
    return {
        name: tensor.float() * stored[name + SCALE] if tensor.dtype == torch.int8 else tensor.float()
        for name, tensor in stored.items()
        if tensor.dtype in _ONNX_TYPES
    }


def unpack_in_graph(graph: ModelProto, stored: Mapping[str, Tensor]) -> None:
    """Have the graph take the weights as they are stored, and make them FP32 in front of everything.

    onnxruntime does so once, as it loads the graph.
    """
    graphs = list(graphs_of(graph.graph))
    packed: dict[str, Tensor] = {}
    for inner in graphs:
        for initializer in inner.initializer:
            tensor = stored.get(initializer.name.removeprefix(PREFIX))
            if tensor is not None and tensor.dtype in _ONNX_TYPES:
                packed[initializer.name] = tensor
    for inner in graphs:
        for node in inner.node:
            node.input[:] = [_value(name) if name in packed else name for name in node.input]
        for initializer in [each for each in inner.initializer if each.name in packed]:
            name = initializer.name
            initializer.CopyFrom(_of(packed[name], name))
            scale = stored.get(name.removeprefix(PREFIX) + SCALE)
            if scale is not None:
                inner.initializer.append(_of(scale, name + SCALE))
                inner.node.insert(0, helper.make_node("Mul", [f"{name}_steps", name + SCALE], [_value(name)]))
            out = _value(name) if scale is None else f"{name}_steps"
            inner.node.insert(0, helper.make_node("Cast", [name], [out], to=TensorProto.FLOAT))


def _value(name: str) -> str:
    return f"{name}_in_fp32"


def _of(tensor: Tensor, name: str) -> TensorProto:
    kind = _ONNX_TYPES.get(tensor.dtype, TensorProto.FLOAT)
    return helper.make_tensor(name, kind, tuple(tensor.shape), tensor.numpy().tobytes(), raw=True)


def full_precision(
    trained: nn.Module, served: nn.Module, manifest: Manifest, rows: Arrays, precision: Precision, tolerance: float
) -> Claim:
    """Torch with the weights as trained against torch with those that are served: what fewer bits cost."""
    relative, off, agree, count, unequal = 0.0, 0.0, 0, 0, 0
    for batch in batches_of(rows, manifest):
        exact, rounded = (named_outputs(model.eval(), manifest, batch) for model in (trained, served))
        for name, array in exact.items():
            got = rounded[name]
            if array.dtype.kind != "f":
                unequal += int(np.sum(got != array))
                continue
            found = max_difference(got, array)
            off, finite = max(off, found["max_abs"]), np.isfinite(got) & np.isfinite(array)
            unequal += int(np.sum(~finite & (got != array) & ~(np.isnan(got) & np.isnan(array))))
            relative = max(relative, rms_of(got[finite].astype("f8") - array[finite]) / (rms_of(array) or 1.0))
            if array.ndim > 1 and array.shape[-1] > 1:
                same = got.argmax(-1) == array.argmax(-1)
                agree, count = agree + int(np.sum(same)), count + same.size
    measured = {"max_abs": off, "relative": relative, "same_largest": agree, "rows_of_numbers": count}
    return Claim(
        claim="full_precision",
        holds=relative <= tolerance and not unequal,
        measured=measured | {"unequal": unequal, "weights": precision},
        how=f"torch's outputs with {precision} weights against those with the weights as trained: max_abs; relative, "
        f"the root mean square of the difference to that of the output, holds up to {tolerance:g}; same_largest, of "
        "how many rows_of_numbers along the last axis the largest is the same one; unequal, whole numbers that differ "
        "and numbers of which one is not finite, holds at 0",
        checked="export",
    )
