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
class Task:
    """A checked request: what is to be computed, laid out as the graphs take it.

    graph, graph_fp64: which graph computes it in FP32, and in FP64; no graph where FP64 alone is good enough. x:
    (R, G, K), R rows of G groups of K numbers that share a mean and a variance. of_groups: weight, bias and given
    statistics, (G, A), each for K / A numbers that lie together. shapes: of the outputs, as the caller gets them.
    momentum: None but in training, where ``before`` holds the running statistics so far.
    """

    operation: str
    graph: str | None
    graph_fp64: str
    x: Array
    of_groups: Arrays
    eps: float
    shapes: dict[str, tuple[int, ...]]
    momentum: float | None = None
    before: Arrays = field(default_factory=dict)


Arrange = Callable[[Arrays, Mapping[str, Any]], Task]


@dataclass(frozen=True)
class Operation:
    """A normalisation operation.

    task: what is to be computed, for inputs of one datatype and checked parameters; it raises InvalidInputError.
    """

    name: str
    formula: str
    statistics_of: str
    source: str
    parameters: dict[str, Parameter]
    task: Arrange
    more_inputs: tuple[str, ...] = ()  # beyond x, weight and bias

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs; all but ``x`` are optional, unless the parameters say otherwise."""
        return ("x", "weight", "bias", *self.more_inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs; the running statistics are there in training alone."""
        return ("y", *STATISTICS, *self.more_inputs)

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

    def arrange(inputs: Arrays, parameters: Mapping[str, Any]) -> Task:
        x, axis = inputs["x"], parameters["axis"]
        if not -x.ndim <= axis < x.ndim:
            raise InvalidInputError(
                f"axis is {axis}, for x of shape {list(x.shape)} it must be from {-x.ndim} to {x.ndim - 1}"
            )
        outer, normalized_shape = x.shape[:axis], x.shape[axis:]
        size = math.prod(normalized_shape)
        affine = _affine(inputs, normalized_shape, "x's shape from axis on")
        statistics = (*outer, *(1,) * len(normalized_shape))
        return Task(
            operation,
            operation,
            graph_fp64,
            x.reshape(-1, 1, size),
            {name: array.reshape(1, size) for name, array in affine.items()},
            parameters["eps"],
            {"y": x.shape, "mean": statistics, "inv_std": statistics},
        )

    return arrange


def _group_norm(inputs: Arrays, parameters: Mapping[str, Any]) -> Task:
    x, groups = inputs["x"], parameters["num_groups"]
    _check_rank("group_norm", x, 2, "(N, C, ...)")
    n, channels, *_ = x.shape
    if channels % groups:
        raise InvalidInputError(f"num_groups is {groups}, it must divide the {channels} channels of x {list(x.shape)}")
    affine = _affine(inputs, (channels,), "one for each channel of x")
    return Task(
        "group_norm",
        "group_norm",
        "two_passes",
        x.reshape(n, groups, -1),
        {name: array.reshape(groups, -1) for name, array in affine.items()},  # (C,) -> (G, C / G)
        parameters["eps"],
        {"y": x.shape, "mean": (n, groups), "inv_std": (n, groups)},
    )


def _instance_norm(inputs: Arrays, parameters: Mapping[str, Any]) -> Task:
    """Group normalisation whose groups are single channels."""
    _check_rank("instance_norm", inputs["x"], 3, "(N, C, ...)")
    return replace(_group_norm(inputs, {**parameters, "num_groups": inputs["x"].shape[1]}), operation="instance_norm")


def _batch_norm(inputs: Arrays, parameters: Mapping[str, Any]) -> Task:
    x, training = inputs["x"], parameters["training"]
    _check_rank("batch_norm", x, 2, "(N, C, ...)")
    n, channels, *_ = x.shape
    affine = {name: array[:, None] for name, array in _affine(inputs, (channels,), "one for each channel of x").items()}
    running = {name: _of_channels(inputs, name, channels, training) for name in ("running_mean", "running_var")}
    shapes = {"y": x.shape, **dict.fromkeys(("mean", "inv_std"), (channels,))}
    rows, eps = x.reshape(n, channels, -1), parameters["eps"]  # (N, C, S)
    if not training:
        columns = {name: array[:, None] for name, array in running.items()}
        return Task("batch_norm", None, "batch_norm", rows, affine | columns, eps, shapes)
    if x.size == channels:
        raise InvalidInputError(f"x has shape {list(x.shape)}: a batch's own statistics need two values a channel")
    return Task(
        "batch_norm",
        None,
        "two_passes",
        rows.swapaxes(0, 1).reshape(1, channels, -1),  # (N, C, S) -> (1, C, N S)
        affine,
        eps,
        {**shapes, **dict.fromkeys(running, (channels,))},
        momentum=parameters["momentum"],
        before=running,
    )


def _of_channels(inputs: Arrays, name: str, channels: int, training: bool) -> Array:
    """Running statistics; in training those left out are what torch begins with, mean 0 and variance 1."""
    if name not in inputs:
        if not training:
            raise InvalidInputError(f"batch_norm needs {name} unless training is true")
        return np.full(channels, name == "running_var", inputs["x"].dtype)
    array = inputs[name]
    if array.shape != (channels,):
        raise InvalidInputError(f"{name} has shape {list(array.shape)}, it must be [{channels}]: one for each channel")
    allowed = np.isfinite(array) & (array >= 0) if name == "running_var" else np.isfinite(array)
    if not allowed.all():
        must = "a variance is finite and at least 0" if name == "running_var" else "a mean is finite"
        raise InvalidInputError(f"{name} has {array[~allowed][0]} in it, {must}")
    return array


def _check_rank(operation: str, x: Array, least: int, layout: str) -> None:
    if x.ndim < least:
        raise InvalidInputError(f"x has shape {list(x.shape)}, {operation} takes {layout}, at least {least} sizes")


def _affine(inputs: Arrays, shape: tuple[int, ...], what: str) -> Arrays:
    """Weight and bias; one that was left out is ones, or zeros."""
    found = {}
    for name, left_out in (("weight", 1), ("bias", 0)):
        array = inputs.get(name)
        if array is None:
            array = np.full(shape, left_out, inputs["x"].dtype)
        elif array.shape != shape:
            raise InvalidInputError(f"{name} has shape {list(array.shape)}, it must be {list(shape)}: {what}")
        found[name] = array
    return found


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
