"""The normalisation operations: what each one means, and what it takes.

One place behind both ``/v1/ops`` and the operations' OIP models. Weights and parameters belong to the request.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    """What a graph is to be fed, in whatever datatype, and the shapes in which its outputs go back to the caller.

    graph_fp64: the graph that computes the same in FP64. ``inputs["x"]`` is (R, G, K): R rows of G groups of K numbers.
    """

    graph: str
    graph_fp64: str
    inputs: Arrays
    shapes: dict[str, tuple[int, ...]]


Arrange = Callable[[Arrays, Mapping[str, Any]], Task]


@dataclass(frozen=True)
class Operation:
    """A normalisation operation."""

    name: str
    formula: str
    statistics_of: str
    source: str
    parameters: dict[str, Parameter]
    arrange: Arrange
    more_inputs: tuple[str, ...] = ()  # beyond x, weight and bias

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs; all but ``x`` are optional, unless the parameters say otherwise."""
        return ("x", "weight", "bias", *self.more_inputs)

    def described_parameters(self) -> dict[str, dict[str, Any]]:
        """Type, default (null where it must be given) and meaning of each parameter."""
        return {
            name: {"type": _TYPES[each.kind], "default": each.default, "meaning": each.meaning}
            for name, each in self.parameters.items()
        }

    def checked(self, sent: Mapping[str, Any]) -> Arrays:
        """The parameters with their defaults, as arrays without axes. Raises InvalidInputError naming a wrong one."""
        for name in sent:
            if name not in self.parameters:
                raise InvalidInputError(
                    f"{self.name} has no parameter {shown(name)}, its parameters are {', '.join(self.parameters)}"
                )
        return {name: np.array(_value(self.name, name, each, sent)) for name, each in self.parameters.items()}


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


def _per_row(graph: str, graph_fp64: str) -> Arrange:
    """Statistics over the axes from ``axis`` on; weight and bias have the shape of these axes."""

    def arrange(inputs: Arrays, parameters: Mapping[str, Any]) -> Task:
        x, axis = inputs["x"], parameters["axis"]
        if not -x.ndim <= axis < x.ndim:
            raise InvalidInputError(
                f"axis is {axis}, for x of shape {list(x.shape)} it must be from {-x.ndim} to {x.ndim - 1}"
            )
        outer, normalized_shape = x.shape[:axis], x.shape[axis:]
        size = math.prod(normalized_shape)
        weight, bias = (array.reshape(1, size) for array in _affine(inputs, normalized_shape, "x's shape from axis on"))
        statistics = (*outer, *(1,) * len(normalized_shape))
        return Task(
            graph,
            graph_fp64,
            {"x": x.reshape(-1, 1, size), "weight": weight, "bias": bias},
            {"y": x.shape, "mean": statistics, "inv_std": statistics},
        )

    return arrange


def _group_norm(inputs: Arrays, parameters: Mapping[str, Any]) -> Task:
    x, groups = inputs["x"], parameters["num_groups"]
    _check_rank("group_norm", x, 2, "(N, C, ...)")
    n, channels, *positions = x.shape
    if channels % groups:
        raise InvalidInputError(f"num_groups is {groups}, it must divide the {channels} channels of x {list(x.shape)}")
    weight, bias = (
        array.reshape(groups, -1).repeat(math.prod(positions), axis=1)  # (C,) -> (G, K)
        for array in _affine(inputs, (channels,), "one for each channel of x")
    )
    return Task(
        "group_norm",
        "two_passes",
        {"x": x.reshape(n, groups, -1), "weight": weight, "bias": bias},
        {"y": x.shape, "mean": (n, groups), "inv_std": (n, groups)},
    )


def _instance_norm(inputs: Arrays, parameters: Mapping[str, Any]) -> Task:
    """Group normalisation whose groups are single channels."""
    _check_rank("instance_norm", inputs["x"], 3, "(N, C, ...)")
    return _group_norm(inputs, {**parameters, "num_groups": inputs["x"].shape[1]})


def _batch_norm(inputs: Arrays, parameters: Mapping[str, Any]) -> Task:
    x, training = inputs["x"], parameters["training"]
    _check_rank("batch_norm", x, 2, "(N, C, ...)")
    n, channels, *_ = x.shape
    weight, bias = (array[:, None] for array in _affine(inputs, (channels,), "one for each channel of x"))
    running = {name: of_channels(inputs, name, channels, training) for name in ("running_mean", "running_var")}
    shapes = {"y": x.shape, **dict.fromkeys(("mean", "inv_std", *running), (channels,))}
    rows = x.reshape(n, channels, -1)  # (N, C, S)
    if not training:
        columns = {name: array[:, None] for name, array in running.items()}
        return Task("batch_norm", "batch_norm", {"x": rows, "weight": weight, "bias": bias, **columns}, shapes)
    if x.size == channels:
        raise InvalidInputError(f"x has shape {list(x.shape)}: a batch's own statistics need two values a channel")
    rows = rows.swapaxes(0, 1).reshape(1, channels, -1)  # (N, C, S) -> (1, C, N S)
    return Task("two_passes", "two_passes", {"x": rows, "weight": weight, "bias": bias}, shapes)


def of_channels(inputs: Arrays, name: str, channels: int, training: bool) -> Array:
    """Running statistics; in training those left out are what torch begins with, mean 0 and variance 1."""
    if name not in inputs:
        if not training:
            raise InvalidInputError(f"batch_norm needs {name} unless training is true")
        return np.full(channels, name == "running_var", inputs["x"].dtype)
    array = inputs[name]
    if array.shape != (channels,):
        raise InvalidInputError(f"{name} has shape {list(array.shape)}, it must be [{channels}]: one for each channel")
    if name == "running_var" and not (array >= 0).all():
        raise InvalidInputError(f"running_var has {array[~(array >= 0)][0]} in it, a variance is at least 0")
    return array


def _check_rank(operation: str, x: Array, least: int, layout: str) -> None:
    if x.ndim < least:
        raise InvalidInputError(f"x has shape {list(x.shape)}, {operation} takes {layout}, at least {least} sizes")


def _affine(inputs: Arrays, shape: tuple[int, ...], what: str) -> tuple[Array, Array]:
    """Weight and bias; one that was left out is ones, or zeros."""
    found = []
    for name, left_out in (("weight", 1), ("bias", 0)):
        array = inputs.get(name)
        if array is None:
            array = np.full(shape, left_out, inputs["x"].dtype)
        elif array.shape != shape:
            raise InvalidInputError(f"{name} has shape {list(array.shape)}, it must be {list(shape)}: {what}")
        found.append(array)
    return found[0], found[1]


_EPS = Parameter(
    float, 1e-5, "added to the variance inside the root", lambda eps: 0 < eps < math.inf, "positive and finite"
)
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
            "in training, all rows and positions, for each channel: a row's answer then depends on the others",
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
