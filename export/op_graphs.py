"""The graphs of the normalisation operations, which ship inside ``service/``: weights and eps are runtime inputs.

Each is accurate where the usual kernels are not, and gives a row the same bits whatever stands beside it and wherever
in memory it lies (docs/decisions/0006). x is (R, G, K): R rows of G groups of K numbers that share mean and variance.

- FP32: groups are centred on their mean, then given to LayerNormalization, which takes the rest of the mean off. Its
  eps is an attribute; any eps is had by scaling, because LN(s x; s^2 eps) = LN(x; eps) (Ba et al. 2016, table 1).
- FP64, whose kernel sums one number after the other: the definition in two passes.
"""

from onnx import ModelProto, checker, parser

KERNEL_EPS = 2.0**-80  # of LayerNormalization: small, so that a scaled row's squares stay far from overflow

# ReduceMean adds in an order that depends on where in memory a row begins. GlobalAveragePool (FP32) and MatMul (FP64)
# do not; what they round off is had by taking the mean again of what the first one left.

_BY_KERNEL = f"""
    kernel_std = Constant <value = float {{{KERNEL_EPS**0.5!r}}}> ()
    std = Sqrt (eps)
    scale = Div (kernel_std, std)
    pivot = GlobalAveragePool (x)
    centred = Sub (x, pivot)
    scaled = Mul (centred, scale)
"""
# mean and inv_std of x, from those of the kernel, which saw the centred and scaled rows
_OF_ALL = """
    rest_of_mean = Div (scaled_mean, scale)
    mean = Add (pivot, rest_of_mean)
    inv_std = Mul (scaled_inv_std, scale)
"""
_KERNEL = f"LayerNormalization <axis = -1, epsilon = {KERNEL_EPS!r}>"

_STATISTICS = "(float[R, G, K] y, float[R, G, 1] mean, float[R, G, 1] inv_std)"


def _rms_norm(element: str, more: str, mean_of: str) -> str:
    """more: an input that the mean takes. mean_of: the mean of what stands for {}."""
    # 4096 equal squares, summed one after the other in FP32, are off by 40 ulp; the second mean takes that back.
    return f"""
rms_norm ({element}[R, G, K] x, {element}[1, K] weight, {element}[1, K] bias, {more}{element} eps)
    => {_STATISTICS.replace("float", element)} {{
    mean = {mean_of.format("x")}
    square = Mul (x, x)
    rounded_mean_square = {mean_of.format("square")}
    residue = Sub (square, rounded_mean_square)
    rest = {mean_of.format("residue")}
    mean_square = Add (rounded_mean_square, rest)
    shifted = Add (mean_square, eps)
    rms = Sqrt (shifted)
    inv_std = Reciprocal (rms)
    normalised = Div (x, rms)
    weighted = Mul (normalised, weight)
    y = Add (weighted, bias)
}}"""


# average: (K, 1), each 1 / K
_GRAPHS = {
    "layer_norm.FP32": f"""
layer_norm (float[R, G, K] x, float[1, K] weight, float[1, K] bias, float eps) => {_STATISTICS} {{
    {_BY_KERNEL}
    y, scaled_mean, scaled_inv_std = {_KERNEL} (scaled, weight, bias)
    {_OF_ALL}
}}""",
    # The affine map is per channel, not per normalised number, so it cannot go into the kernel.
    "group_norm.FP32": f"""
group_norm (float[R, G, K] x, float[G, A] weight, float[G, A] bias, float eps) => {_STATISTICS} {{
    {_BY_KERNEL}
    group_shape = Shape <start = 2> (x)
    ones = ConstantOfShape <value = float[1] {{1}}> (group_shape)
    normalised, scaled_mean, scaled_inv_std = {_KERNEL} (scaled, ones)
    weighted = Mul (normalised, weight)
    y = Add (weighted, bias)
    {_OF_ALL}
}}""",
    "rms_norm.FP32": _rms_norm("float", "", "GlobalAveragePool ({})"),
    "rms_norm.FP64": _rms_norm("double", "double[K, 1] average, ", "MatMul ({}, average)"),
    # The pivot is kept between the smallest and the largest value, where a rounded mean may not lie: a constant row is
    # then its own pivot, all zeros once centred, and its answer exactly the bias.
    "two_passes.FP64": """
two_passes (double[R, G, K] x, double[G, A] weight, double[G, A] bias, double[K, 1] average, double eps)
    => (double[R, G, K] y, double[R, G, 1] mean, double[R, G, 1] inv_std, double[R, G, 1] variance) {
    last = Constant <value = int64[1] {-1}> ()
    rounded_mean = MatMul (x, average)
    smallest = ReduceMin <keepdims = 1> (x, last)
    largest = ReduceMax <keepdims = 1> (x, last)
    at_least = Max (rounded_mean, smallest)
    pivot = Min (at_least, largest)
    centred = Sub (x, pivot)
    rest_of_mean = MatMul (centred, average)
    mean = Add (pivot, rest_of_mean)
    deviation = Sub (centred, rest_of_mean)
    square = Mul (deviation, deviation)
    rounded_variance = MatMul (square, average)
    residue = Sub (square, rounded_variance)
    rest_of_variance = MatMul (residue, average)
    variance = Add (rounded_variance, rest_of_variance)
    shifted = Add (variance, eps)
    std = Sqrt (shifted)
    inv_std = Reciprocal (std)
    normalised = Div (deviation, std)
    weighted = Mul (normalised, weight)
    y = Add (weighted, bias)
}""",
    "batch_norm.FP64": """
batch_norm (double[R, G, K] x, double[G, A] weight, double[G, A] bias, double[G, 1] running_mean,
    double[G, 1] running_var, double eps) => (double[R, G, K] y) {
    shifted = Add (running_var, eps)
    std = Sqrt (shifted)
    centred = Sub (x, running_mean)
    normalised = Div (centred, std)
    weighted = Mul (normalised, weight)
    y = Add (weighted, bias)
}""",
}

NAMES = tuple(_GRAPHS)


def op_graph(name: str) -> ModelProto:
    """A graph by ``<name>.<datatype>``, checked against the operators' definitions."""
    model = parser.parse_model('<ir_version: 10, opset_import: ["" : 20]>' + _GRAPHS[name])
    checker.check_model(model, full_check=True)
    return model


def op_graphs() -> dict[str, bytes]:
    """Every graph as it is written to ``<name>.<datatype>.onnx``."""
    return {name: op_graph(name).SerializeToString(deterministic=True) for name in NAMES}
