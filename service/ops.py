"""The normalisation operations: what each one means, and what it takes.

One place behind both ``/v1/ops`` and the operations' OIP models. Weights and parameters belong to the request.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from service.errors import InvalidInputError, shown
from service.protocol import Array, Arrays

DATATYPES_TAKEN = ("FP32", "FP64", "FP16")
MAX_RANK = 8
STATISTICS = ("mean", "inv_std")

Value = float | int | bool
_KINDS: dict[type, str] = {float: "a number", int: "an integer", bool: "true or false"}
_TYPES: dict[type, str] = {float: "number", int: "integer", bool: "boolean"}


@dataclass(frozen=True)
class Parameter:
    """A parameter of an operation. default: None where there is none and the caller must say it."""

    kind: type[float] | type[int] | type[bool]
    default: Value | None
    meaning: str
    allows: Callable[[Any], bool] = lambda _: True
    allowed: str = ""


@dataclass(frozen=True)
class Layout:
    """A checked request without its values: what is to be computed, and how its tensors lie as the graphs take them.

    One serves all requests that differ in their values alone.

    graph, graph_fp64: which graph computes it in FP32, and in FP64; no graph where FP64 alone is good enough.
    x: (R, G, K), R rows of G groups of K numbers that share a mean and a variance. of_groups: weight, bias and given
    statistics, (G, A), each for K / A numbers that lie together. answered: shapes of the outputs, as the caller gets
    them. before: sizes of the running statistics that training moves on; momentum: None but there.
    """

    operation: str
    graph: str | None
    graph_fp64: str
    x: tuple[int, int, int]
    of_groups: dict[str, tuple[int, int]]
    eps: float
    answered: dict[str, tuple[int, ...]]
    before: dict[str, tuple[int, ...]] = field(default_factory=dict)
    momentum: float | None = None

    def task(self, inputs: Arrays) -> "Task":
        """With the values. An input that was left out has those that change nothing. Raises InvalidInputError."""
        for name in inputs.keys() & _STATISTICS_TAKEN:
            _check_statistics(name, inputs[name])
        x = inputs["x"]
        if self.momentum is not None:  # (N, C, S) -> (C, N, S), each channel's numbers together
            x = x.reshape(*x.shape[:2], -1).swapaxes(0, 1)
        arrays = {"x": x.reshape(self.x)}
        for name, shape in self.of_groups.items():
            array = inputs.get(name)
            arrays[name] = np.full(shape, LEFT_OUT[name], x.dtype) if array is None else array.reshape(shape)
        before = {
            name: inputs[name] if name in inputs else np.full(shape, LEFT_OUT[name], x.dtype)
            for name, shape in self.before.items()
        }
        return Task(self, arrays, before)


@dataclass(slots=True)
class Task:
    """What is to be computed, of which values; all arrays have one datatype, and lie as the layout says."""

    layout: Layout
    arrays: Arrays  # x and those of groups
    before: Arrays

    @property
    def x(self) -> Array:
        """What is normalised."""
        return self.arrays["x"]


# What an input that was left out is full of. For the running statistics: what torch begins training with.
LEFT_OUT = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}
_STATISTICS_TAKEN = ("running_mean", "running_var")

Shapes = Mapping[str, tuple[int, ...]]
Arrange = Callable[[Shapes, Mapping[str, Any]], Layout]


@dataclass(frozen=True)
class Operation:
    """A normalisation operation.

    layout: what is to be computed, for inputs of these shapes and checked parameters; it raises InvalidInputError.
    """

    name: str
    formula: str
    statistics_of: str
    source: str
    parameters: dict[str, Parameter]
    layout: Arrange
    more_inputs: tuple[str, ...] = ()  # beyond x, weight and bias

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs; all but ``x`` are optional, unless the parameters say otherwise."""
        return ("x", "weight", "bias", *self.more_inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs; the running statistics are there in training alone."""
        return ("y", *STATISTICS, *self.more_inputs)

    def task(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Task:
        """What is to be computed of these arrays, all of one datatype. Raises InvalidInputError."""
        shapes = {name: array.shape for name, array in inputs.items()}
        return self.layout(shapes, self.checked(parameters)).task(inputs)

    def described_parameters(self) -> dict[str, dict[str, Any]]:
        """Type, default (null where it must be given) and meaning of each parameter."""
        return {
            name: {"type": _TYPES[each.kind], "default": each.default, "meaning": each.meaning}
            for name, each in self.parameters.items()
        }

    def checked(self, sent: Mapping[str, Any]) -> dict[str, Value]:
        """The parameters with their defaults. Raises InvalidInputError naming the one that is wrong."""
        for name in sent:
            if name not in self.parameters:
                raise InvalidInputError(
                    f"{self.name} has no parameter {shown(name)}, its parameters are {', '.join(self.parameters)}"
                )
        return {name: _value(self.name, name, each, sent) for name, each in self.parameters.items()}


def _value(operation: str, name: str, parameter: Parameter, sent: Mapping[str, Any]) -> Value:
    value: Any = sent.get(name, parameter.default)
    if value is None:
        raise InvalidInputError(f"{operation} needs the parameter {name}: {parameter.meaning}")
    if parameter.kind is float and type(value) is int:
        value = float(value) if abs(value) < 2**1023 else math.inf
    if type(value) is not parameter.kind:
        raise InvalidInputError(f"{name} is {shown(value)}, it must be {_KINDS[parameter.kind]}")
    if not parameter.allows(value):
        raise InvalidInputError(f"{name} is {value}, it must be {parameter.allowed}")
    return value


# ---- what each operation computes ------------------------------------------------------------------------------------


def _per_row(operation: str, graph_fp64: str) -> Arrange:
    """Statistics over the axes from ``axis`` on; weight and bias have the shape of these axes."""

    def arrange(shapes: Shapes, parameters: Mapping[str, Any]) -> Layout:
        x, axis = shapes["x"], parameters["axis"]
        if not -len(x) <= axis < len(x):
            raise InvalidInputError(
                f"axis is {axis}, for x of shape {list(x)} it must be from {-len(x)} to {len(x) - 1}"
            )
        outer, normalized_shape = x[:axis], x[axis:]
        size = math.prod(normalized_shape)
        _check_affine(shapes, normalized_shape, "x's shape from axis on")
        statistics = (*outer, *(1,) * len(normalized_shape))
        return Layout(
            operation,
            operation,
            graph_fp64,
            (math.prod(outer), 1, size),
            dict.fromkeys(("weight", "bias"), (1, size)),
            parameters["eps"],
            {"y": x, "mean": statistics, "inv_std": statistics},
        )

    return arrange


def _group_norm(shapes: Shapes, parameters: Mapping[str, Any]) -> Layout:
    x, groups = shapes["x"], parameters["num_groups"]
    _check_rank("group_norm", x, 2, "(N, C, ...)")
    n, channels, *positions = x
    if channels % groups:
        raise InvalidInputError(f"num_groups is {groups}, it must divide the {channels} channels of x {list(x)}")
    _check_affine(shapes, (channels,), "one for each channel of x")
    in_group = channels // groups
    return Layout(
        "group_norm",
        "group_norm",
        "two_passes",
        (n, groups, in_group * math.prod(positions)),
        dict.fromkeys(("weight", "bias"), (groups, in_group)),  # (C,) -> (G, C / G)
        parameters["eps"],
        {"y": x, "mean": (n, groups), "inv_std": (n, groups)},
    )


def _instance_norm(shapes: Shapes, parameters: Mapping[str, Any]) -> Layout:
    """Group normalisation whose groups are single channels."""
    _check_rank("instance_norm", shapes["x"], 3, "(N, C, ...)")
    return replace(_group_norm(shapes, {**parameters, "num_groups": shapes["x"][1]}), operation="instance_norm")


def _batch_norm(shapes: Shapes, parameters: Mapping[str, Any]) -> Layout:
    x, training, eps = shapes["x"], parameters["training"], parameters["eps"]
    _check_rank("batch_norm", x, 2, "(N, C, ...)")
    n, channels, *positions = x
    size = math.prod(positions)
    _check_affine(shapes, (channels,), "one for each channel of x")
    for name in _STATISTICS_TAKEN:
        if name not in shapes and not training:
            raise InvalidInputError(f"batch_norm needs {name} unless training is true")
        if (shape := shapes.get(name, (channels,))) != (channels,):
            raise InvalidInputError(f"{name} has shape {list(shape)}, it must be [{channels}]: one for each channel")
    of_channels = dict.fromkeys(("weight", "bias"), (channels, 1))
    answered = {"y": x, **dict.fromkeys(("mean", "inv_std"), (channels,))}
    running: dict[str, tuple[int, ...]] = dict.fromkeys(_STATISTICS_TAKEN, (channels,))
    if not training:
        columns = dict.fromkeys(_STATISTICS_TAKEN, (channels, 1))
        return Layout("batch_norm", None, "batch_norm", (n, channels, size), of_channels | columns, eps, answered)
    if n * size == 1:
        raise InvalidInputError(f"x has shape {list(x)}: a batch's own statistics need two values a channel")
    return Layout(
        "batch_norm",
        None,
        "two_passes",
        (1, channels, n * size),
        of_channels,
        eps,
        answered | running,
        before=running,
        momentum=parameters["momentum"],
    )


def _check_statistics(name: str, array: Array) -> None:
    """Raises InvalidInputError when running statistics are none."""
    allowed = np.isfinite(array) & (array >= 0) if name == "running_var" else np.isfinite(array)
    if not allowed.all():
        must = "a variance is finite and at least 0" if name == "running_var" else "a mean is finite"
        raise InvalidInputError(f"{name} has {array[~allowed][0]} in it, {must}")


def _check_rank(operation: str, x: tuple[int, ...], least: int, layout: str) -> None:
    if len(x) < least:
        raise InvalidInputError(f"x has shape {list(x)}, {operation} takes {layout}, at least {least} sizes")


def _check_affine(shapes: Shapes, shape: tuple[int, ...], what: str) -> None:
    for name in ("weight", "bias"):
        if (sent := shapes.get(name, shape)) != shape:
            raise InvalidInputError(f"{name} has shape {list(sent)}, it must be {list(shape)}: {what}")


_EPS = Parameter(float, 1e-5, "added inside the root", lambda eps: 0 < eps < math.inf, "positive and finite")
_AXIS = Parameter(int, -1, "the first normalised axis; all from it on are normalised together")
_GROUPS = Parameter(
    int,
    None,
    "groups of channels that are normalised together; it divides them",
    lambda groups: groups >= 1,
    "at least 1",
)

OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation(
            "layer_norm",
            "y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias",
            "the axes from `axis` on, for each row",
            "Ba, Kiros and Hinton 2016, Layer Normalization, arXiv 1607.06450, equation 3",
            {"eps": _EPS, "axis": _AXIS},
            _per_row("layer_norm", "two_passes"),
        ),
        Operation(
            "rms_norm",
            "y = x / sqrt(E[x^2] + eps) * weight + bias",
            "the axes from `axis` on, for each row; inv_std is 1 / sqrt(E[x^2] + eps), mean is not subtracted",
            "Zhang and Sennrich 2019, Root Mean Square Layer Normalization, arXiv 1910.07467, equation 4",
            {"eps": _EPS, "axis": _AXIS},
            _per_row("rms_norm", "rms_norm"),
        ),
        Operation(
            "group_norm",
            "y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias",
            "C / num_groups channels and all positions, for each row and group",
            "Wu and He 2018, Group Normalization, arXiv 1803.08494, equation 7",
            {"eps": _EPS, "num_groups": _GROUPS},
            _group_norm,
        ),
        Operation(
            "instance_norm",
            "y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias",
            "all positions, for each row and channel",
            "Ulyanov, Vedaldi and Lempitsky 2016, Instance Normalization, arXiv 1607.08022, equation 3",
            {"eps": _EPS},
            _instance_norm,
        ),
        Operation(
            "batch_norm",
            "y = (x - running_mean) / sqrt(running_var + eps) * weight + bias; "
            "in training with the batch's own mean and variance",
            "all rows and positions, for each channel, in training: a row's answer then depends on the others",
            "Ioffe and Szegedy 2015, Batch Normalization, arXiv 1502.03167, algorithms 1 and 2",
            {
                "eps": _EPS,
                "training": Parameter(
                    bool, False, "use the batch's own statistics, and answer the running ones moved on"
                ),
                "momentum": Parameter(
                    float, 0.1, "how far training moves the running statistics", lambda m: 0 <= m <= 1, "from 0 to 1"
                ),
            },
            _batch_norm,
            more_inputs=("running_mean", "running_var"),
        ),
    )
}
