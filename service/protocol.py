"""The wire types of the Open Inference Protocol v2 (REST), as plain dataclasses, and its datatypes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Buffer = bytes | bytearray | memoryview
Parameters = dict[str, str | int | float | bool]

HEADER_LENGTH = "Inference-Header-Content-Length"  # bytes of JSON in front of the binary tensors

# Little-endian, as the binary tensor extension fixes it. BYTES is not here: no model of ours reads or writes text.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPE_OF: dict[np.dtype[Any], str] = {dtype: name for name, dtype in DATATYPES.items()}


@dataclass(frozen=True)
class TensorMetadata:
    """Name, datatype and shape of a model's input or output; -1 is a size that varies.

    optional: an input that may be left out. on_request: an output that is answered only when it is named.
    """

    name: str
    datatype: str
    shape: list[int]
    optional: bool | None = None
    on_request: bool | None = None


@dataclass(frozen=True)
class ModelMetadata:
    """GET /v2/models/{name}."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    datatypes: list[str] | None = None  # an operation's: what its tensors may be, all of them alike
    parameters: dict[str, Any] | None = None  # an operation's: type, default and meaning by name


@dataclass(frozen=True)
class ServerMetadata:
    """GET /v2."""

    name: str
    version: str
    extensions: list[str]


@dataclass(frozen=True)
class JsonNumbers:
    """The text between the outer brackets of a large tensor's data: numbers, or lists of numbers.

    cuts: where it falls into pieces, from before its beginning to its end; those between are commas of the outer list.
    """

    text: memoryview
    cuts: list[int]


@dataclass(frozen=True)
class RequestInput:
    """One tensor of a request.

    data: JSON values, flat or nested; or their text; or an array of them, checked, flat, of the datatype; or where
    among the bytes behind the JSON the tensor lies.
    """

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | Array | JsonNumbers | slice


@dataclass(frozen=True)
class RequestedOutput:
    """An output the client asked for, and whether it wants it binary."""

    name: str
    binary_data: bool = False


@dataclass(frozen=True)
class InferenceRequest:
    """POST .../infer, without the bytes behind its JSON. ``raw``: how many there are, where all are the one input's."""

    id: str | None = None
    parameters: Parameters = field(default_factory=dict)
    inputs: list[RequestInput] = field(default_factory=list)
    outputs: list[RequestedOutput] | None = None  # None: all of them, binary if binary_data_output
    binary_data_output: bool = False
    raw: int | None = None
    timeout_s: float | None = None  # from its arrival, where it names one
    is_urgent: bool = False
    unknown: tuple[str, ...] = ()  # fields that the protocol does not have; a model passes over them


@dataclass(frozen=True)
class ModelIndexEntry:
    """One line of POST /v2/repository/index."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True)
class ModelList:
    """GET /v2/models."""

    models: list[str]


@dataclass(frozen=True)
class OperationDescription:
    """One line of GET /v1/ops."""

    name: str
    formula: str
    statistics_of: str
    source: str
    inputs: list[str]
    outputs: list[str]
    parameters: dict[str, dict[str, Any]]
    datatypes: list[str]
    model: str


@dataclass(frozen=True)
class Live:
    """GET /v2/health/live."""

    live: bool


@dataclass(frozen=True)
class Ready:
    """GET /v2/health/ready; not ready is 503 with an :class:`ErrorBody`."""

    ready: bool


@dataclass(frozen=True)
class ModelReady:
    """GET /v2/models/{name}/ready."""

    name: str
    ready: bool


@dataclass(frozen=True)
class ErrorBody:
    """The body of every answer that is not 2xx: what was wrong, which value, what is allowed."""

    error: str
