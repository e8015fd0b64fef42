"""``POST /v1/ops/{op}``: the bodies, for people and the documentation page; pydantic checks what they hold."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from service.codec import array_of_numbers, shape_of
from service.errors import InvalidInputError, shown
from service.json_numbers import cut_out
from service.off_the_loop import JSON_COSTS, LARGE_BYTES
from service.ops import MAX_RANK, STATISTICS
from service.protocol import DATATYPES, InferenceRequest, JsonNumbers, Parameters, RequestedOutput, RequestInput
from service.request import parse_json

Nested = Annotated[
    list[Any],
    WithJsonSchema({"type": "array", "items": {}, "description": f"Numbers in nested lists, 1 to {MAX_RANK} deep."}),
]
Channels = Annotated[
    list[Any],
    WithJsonSchema({"type": "array", "items": {"type": "number"}, "description": "One for each channel of x."}),
]
X: Any = [[1.0, 2.0, 3.0, 4.0], [10000.0, 10001.0, 10002.0, 10004.0]]
BATCH: Any = [[1.0, 10.0], [2.0, 30.0], [6.0, 50.0]]
IMAGES: Any = [[[1.0, 2.0], [3.0, 5.0]], [[-1.0, 0.5], [2.0, 2.0]]]  # (N, C, positions)


class OpBody(BaseModel):
    """What every operation takes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    x: Nested | SkipJsonSchema[InstanceOf[JsonNumbers]]
    weight: Nested | None = Field(None, description="Multiplies what was normalised; ones when left out.")
    bias: Nested | None = Field(None, description="Is added last; zeros when left out.")
    eps: float = Field(1e-5, gt=0, allow_inf_nan=False, description="Added to the variance inside the root.")
    datatype: Literal["FP32", "FP64"] = Field("FP32", description="What is computed and answered in.")
    return_stats: bool = Field(
        False, description="Answer `mean` and `inv_std`, the reciprocal standard deviation, too."
    )

    def tensors(self) -> dict[str, list[Any] | JsonNumbers | None]:
        """The inputs by name."""
        return {"x": self.x, "weight": self.weight, "bias": self.bias}

    def parameters(self, shape: list[int]) -> Parameters:
        """The operation's parameters. shape: of x."""
        del shape
        return {"eps": self.eps}

    def outputs(self) -> tuple[str, ...]:
        """The outputs to answer with."""
        return ("y", *STATISTICS) if self.return_stats else ("y",)

    def request(self) -> InferenceRequest:
        """The same as a request to the operation's OIP model. Raises InvalidInputError."""
        inputs = [_input(name, self.datatype, data) for name, data in self.tensors().items() if data is not None]
        outputs = [RequestedOutput(name, binary_data=False) for name in self.outputs()]
        return InferenceRequest(parameters=self.parameters(inputs[0].shape), inputs=inputs, outputs=outputs)


class RowBody(OpBody):
    """layer_norm and rms_norm."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"x": X, "weight": [1, 1, 2, 2], "bias": [0, 0, 0, 1], "return_stats": True}}
    )

    axis: int | None = Field(None, description="The first normalised axis; -1 when left out.")
    normalized_shape: list[int] | None = Field(
        None, description="In place of `axis`: the sizes of the normalised axes."
    )

    def parameters(self, shape: list[int]) -> Parameters:
        """``normalized_shape`` is said by its axis. Raises InvalidInputError where x does not end in it."""
        axis = -1 if self.axis is None else self.axis
        if self.normalized_shape is not None:
            wanted = self.normalized_shape
            if not wanted or shape[-len(wanted) :] != wanted:
                raise InvalidInputError(f"normalized_shape is {shown(wanted)}, x of shape {shape} must end in it")
            if self.axis is not None and axis not in (len(shape) - len(wanted), -len(wanted)):
                raise InvalidInputError(f"axis is {axis} and normalized_shape {wanted}: give one of them")
            axis = -len(wanted)
        return {**super().parameters(shape), "axis": axis}


class GroupBody(OpBody):
    """group_norm."""

    model_config = ConfigDict(json_schema_extra={"example": {"x": IMAGES, "num_groups": 1, "weight": [1, 2]}})

    weight: Channels | None = Field(None, description="Multiplies each channel; ones when left out.")
    bias: Channels | None = Field(None, description="Is added to each channel; zeros when left out.")
    num_groups: int = Field(ge=1, description="Groups of channels that are normalised together; it divides them.")

    def parameters(self, shape: list[int]) -> Parameters:
        """Eps and groups."""
        return {**super().parameters(shape), "num_groups": self.num_groups}


class InstanceBody(OpBody):
    """instance_norm."""

    model_config = ConfigDict(json_schema_extra={"example": {"x": IMAGES, "return_stats": True}})

    weight: Channels | None = Field(None, description="Multiplies each channel; ones when left out.")
    bias: Channels | None = Field(None, description="Is added to each channel; zeros when left out.")


class BatchBody(OpBody):
    """batch_norm."""

    model_config = ConfigDict(json_schema_extra={"example": {"x": BATCH, "training": True, "momentum": 0.1}})

    weight: Channels | None = Field(None, description="Multiplies each channel; ones when left out.")
    bias: Channels | None = Field(None, description="Is added to each channel; zeros when left out.")
    running_mean: Channels | None = Field(None, description="Needed unless `training`; there 0 when left out.")
    running_var: Channels | None = Field(None, description="Needed unless `training`; there 1 when left out.")
    training: bool = Field(False, description="Use the batch's own statistics, and answer the running ones moved on.")
    momentum: float = Field(0.1, ge=0, le=1, description="How far training moves the running statistics.")

    def tensors(self) -> dict[str, list[Any] | JsonNumbers | None]:
        """The running statistics as well."""
        return {**super().tensors(), "running_mean": self.running_mean, "running_var": self.running_var}

    def parameters(self, shape: list[int]) -> Parameters:
        """Eps, and how to train."""
        return {**super().parameters(shape), "training": self.training, "momentum": self.momentum}

    def outputs(self) -> tuple[str, ...]:
        """In training the running statistics as well."""
        return (*super().outputs(), *(("running_mean", "running_var") if self.training else ()))


class OpAnswer(BaseModel):
    """The answer of ``POST /v1/ops/{op}``."""

    model_config = ConfigDict(
        json_schema_extra={
            "required": ["y", "datatype", "shape"],
            "example": {"y": [[-1.0, 1.0]], "datatype": "FP32", "shape": [1, 2]},
        }
    )

    y: Nested
    datatype: Literal["FP32", "FP64"]
    shape: list[int] = Field(description="Sizes of x and y.")
    mean: Nested | None = Field(None, description="With `return_stats`.")
    inv_std: Nested | None = Field(None, description="With `return_stats`: 1 / sqrt(Var[x] + eps).")
    running_mean: Channels | None = Field(None, description="From `training`.")
    running_var: Channels | None = Field(None, description="From `training`.")


BODIES: dict[str, type[OpBody]] = {
    "layer_norm": RowBody,
    "rms_norm": RowBody,
    "group_norm": GroupBody,
    "instance_norm": InstanceBody,
    "batch_norm": BatchBody,
}


def _input(name: str, datatype: str, data: list[Any] | JsonNumbers) -> RequestInput:
    if isinstance(data, list):
        return RequestInput(name, datatype, shape_of(data, name), data)
    array = array_of_numbers(data, DATATYPES[datatype], name)
    return RequestInput(name, datatype, list(array.shape), array)


def parse_body(operation: str, body: bytes | bytearray) -> OpBody:
    """The body of an operation. Raises InvalidInputError naming the field that is wrong, its value, what is allowed."""
    text, numbers = cut_out(body, len(body), "x") if JSON_COSTS * len(body) > LARGE_BYTES else (body, {})
    document = parse_json(text)
    if not isinstance(document, dict):
        raise InvalidInputError(f"the body is {shown(document)}, it must be a JSON object")
    fields = BODIES[operation].model_fields
    if unknown := [field for field in document if field not in fields]:
        raise InvalidInputError(f"{operation} has no field {shown(unknown[0])}, its fields are {', '.join(fields)}")
    if isinstance(x := document.get("x"), str) and x in numbers:
        document["x"] = numbers[x]
    try:
        return BODIES[operation].model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = str(first["loc"][0])
        was = "" if first["type"] == "missing" else f" is {shown(first['input'])}"
        raise InvalidInputError(f"{where}{was}: {first['msg']}") from error
