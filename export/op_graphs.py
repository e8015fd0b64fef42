"""The graphs of the normalisation operations, which ship inside ``service/``: weights and eps are runtime inputs.

Two ways to the same thing, each accurate where the usual kernels are not (docs/decisions/0006):

- FP32: rows are centred on their mean, then given to LayerNormalization, which takes the rest of the mean off. Its eps
  is an attribute; any eps is had by scaling the rows, because LN(s x; s^2 eps) = LN(x; eps) (Ba et al. 2016, table 1).
- FP64, whose kernel sums one number after the other: the definition in two passes.
"""

import itertools
from pathlib import Path

from onnx import ModelProto, checker, parser

TYPES = {"FP32": "float", "FP64": "double"}
KERNEL_EPS = 2.0**-80  # of LayerNormalization: small, so that a scaled row's squares stay far from overflow

_HEADER = """<ir_version: 10, opset_import: ["" : 20]>
{name} ({type}[{x}] x, {type}[{affine}] weight, {type}[{affine}] bias, {type} eps)
    => ({type}[{x}] y, {type}[{statistics}] mean, {type}[{statistics}] inv_std{more})
{{
    axes = Constant <value = int64[{count}] {{{axes}}}> ()
"""

# mean, inv_std: of the whole, from those of the kernel, which saw the centred and scaled rows.
_BY_KERNEL = f"""
    kernel_std = Constant <value = float {{{{{KERNEL_EPS**0.5!r}}}}}> ()
    std = Sqrt (eps)
    scale = Div (kernel_std, std)
    pivot = ReduceMean <keepdims = 1> (x, axes)
    centred = Sub (x, pivot)
    scaled = Mul (centred, scale)
    {{kernel}}
    rest_of_mean = Div (scaled_mean, scale)
    mean = Add (pivot, rest_of_mean)
    inv_std = Mul (scaled_inv_std, scale)
}}}}
"""
_LAYER_NORM = f"""
    y, scaled_mean, scaled_inv_std = LayerNormalization <axis = -1, epsilon = {KERNEL_EPS!r}> (scaled, weight, bias)
"""
# The affine map is per channel, not per normalised element, so it cannot go into the kernel.
_GROUP_NORM = f"""
    group_shape = Shape <start = 2> (x)
    ones = ConstantOfShape <value = float[1] {{1}}> (group_shape)
    normalised, scaled_mean, scaled_inv_std = LayerNormalization <axis = 2, epsilon = {KERNEL_EPS!r}> (scaled, ones)
    weighted = Mul (normalised, weight)
    y = Add (weighted, bias)
"""

# The pivot is kept between the smallest and the largest value, where a rounded mean may not lie: a constant row is then
# its own pivot, all zeros once centred, and its answer exactly the bias.
_TWO_PASSES = """
    rounded_mean = ReduceMean <keepdims = 1> (x, axes)
    smallest = ReduceMin <keepdims = 1> (x, axes)
    largest = ReduceMax <keepdims = 1> (x, axes)
    at_least = Max (rounded_mean, smallest)
    pivot = Min (at_least, largest)
    centred = Sub (x, pivot)
    rest_of_mean = ReduceMean <keepdims = 1> (centred, axes)
    mean = Add (pivot, rest_of_mean)
    deviation = Sub (centred, rest_of_mean)
    square = Mul (deviation, deviation)
    variance = ReduceMean <keepdims = 1> (square, axes)
    shifted = Add (variance, eps)
    std = Sqrt (shifted)
    inv_std = Reciprocal (std)
    normalised = Div (deviation, std)
    weighted = Mul (normalised, weight)
    y = Add (weighted, bias)
}}
"""

# The mean of the squares is taken again of what the first one left: 4096 equal numbers, summed one after the other in
# FP32, are off by 40 ulp.
_RMS_NORM = """
    mean = ReduceMean <keepdims = 1> (x, axes)
    square = Mul (x, x)
    rounded_mean_square = ReduceMean <keepdims = 1> (square, axes)
    residue = Sub (square, rounded_mean_square)
    rest_of_mean_square = ReduceMean <keepdims = 1> (residue, axes)
    mean_square = Add (rounded_mean_square, rest_of_mean_square)
    shifted = Add (mean_square, eps)
    rms = Sqrt (shifted)
    inv_std = Reciprocal (rms)
    normalised = Div (x, rms)
    weighted = Mul (normalised, weight)
    y = Add (weighted, bias)
}}
"""

_BATCH_NORM = """<ir_version: 10, opset_import: ["" : 20]>
batch_norm ({type}[N, C, S] x, {type}[C, 1] weight, {type}[C, 1] bias, {type}[C, 1] running_mean,
            {type}[C, 1] running_var, {type} eps) => ({type}[N, C, S] y, {type}[C, 1] mean, {type}[C, 1] inv_std)
{{
    mean = Identity (running_mean)
    shifted = Add (running_var, eps)
    std = Sqrt (shifted)
    inv_std = Reciprocal (std)
    factor = Div (weight, std)
    centred = Sub (x, running_mean)
    weighted = Mul (centred, factor)
    y = Add (weighted, bias)
}}
"""

# x as rows (R, K), as groups (N, G, channels of a group, S), as channels (C, N S); each with its affine map's shape.
_ROWS = {"x": "R, K", "affine": "K", "statistics": "R, 1", "axes": "-1", "count": "1", "more": ""}
_GROUPS = {
    "x": "N, G, K, S",
    "affine": "G, K, 1",
    "statistics": "N, G, 1, 1",
    "axes": "2, 3",
    "count": "2",
    "more": "",
}
_CHANNELS = {**_ROWS, "x": "C, K", "affine": "C, 1", "statistics": "C, 1"}


def _text(name: str, datatype: str) -> str:
    """The graph in onnx's text form."""
    type_ = TYPES[datatype]
    if name == "batch_norm":
        return _BATCH_NORM.format(type=type_)
    if name == "batch_norm_training":
        more = f", {type_}[C, 1] variance"
        return (_HEADER + _TWO_PASSES).format(name=name, type=type_, **{**_CHANNELS, "more": more})
    layout = _GROUPS if name == "group_norm" else _ROWS
    if name == "rms_norm":
        return (_HEADER + _RMS_NORM).format(name=name, type=type_, **layout)
    if datatype == "FP64":
        return (_HEADER + _TWO_PASSES).format(name=name, type=type_, **layout)
    kernel = _GROUP_NORM if name == "group_norm" else _LAYER_NORM
    return (_HEADER + _BY_KERNEL).format(name=name, type=type_, kernel=kernel, **layout)


NAMES = ("layer_norm", "rms_norm", "group_norm", "batch_norm", "batch_norm_training")


def op_graph(name: str, datatype: str) -> ModelProto:
    """One graph, checked against the operators' definitions."""
    model = parser.parse_model(_text(name, datatype))
    checker.check_model(model, full_check=True)
    return model


def write_op_graphs(folder: Path) -> None:
    """Every graph in every datatype, as ``<name>.<datatype>.onnx``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, datatype in itertools.product(NAMES, TYPES):
        content = op_graph(name, datatype).SerializeToString(deterministic=True)
        (folder / f"{name}.{datatype}.onnx").write_bytes(content)
