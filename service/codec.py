"""Request -> arrays -> response body: JSON, binary and raw tensors, checked against the model's metadata.

Tensors never pass through pydantic. Every check comes before the memory it would cost: names, then shapes, then sizes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import orjson

from service.errors import InvalidInputError, shown
from service.json_document import read_numbers
from service.json_numbers import elements, pieces, written
from service.manifest import InputTensor, Manifest, OutputTensor
from service.protocol import (
    DATATYPE_OF,
    DATATYPES,
    HEADER_LENGTH,
    Array,
    Arrays,
    Buffer,
    InferenceRequest,
    JsonNumbers,
    RequestedOutput,
    RequestInput,
)
from service.sizes import check_equal_sizes, check_shape

MAX_NESTING = 32  # of lists in lists, before anything is done for each of them
_JSON_TYPES: dict[str, frozenset[type]] = {
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({int, float}),
}
_JSON_NAMES = {"b": "true or false", "i": "an integer", "u": "an integer", "f": "a number"}


@dataclass(frozen=True)
class Wanted:
    """What the client wants to be answered with: which outputs in which order, whether each is binary; and when."""

    id: str | None
    outputs: tuple[tuple[str, bool], ...]
    nonfinite_as_null: bool
    timeout_s: float | None = None
    is_urgent: bool = False

    @cached_property
    def is_binary(self) -> bool:
        """Whether no tensor of the answer is in its JSON."""
        return all(is_binary for _, is_binary in self.outputs)


class Answer(NamedTuple):
    """A response: its JSON in parts, and the binary tensors that follow it, as they lie in memory."""

    text: list[bytes]
    tensors: list[memoryview]


Reader = Callable[[Buffer], Array]


# ---- request -> arrays -----------------------------------------------------------------------------------------------


def inputs_of(request: InferenceRequest, manifest: Manifest) -> list[tuple[RequestInput, InputTensor]]:
    """The inputs that were sent, in the manifest's order, checked in everything but their values.

    With a batch axis, all of them have equally many rows. Raises InvalidInputError naming the tensor, what it was and
    what it must be, and TooManyRowsError.
    """
    if request.raw is not None:
        return [_raw_input(request.raw, manifest)]
    by_name = {tensor.name: tensor for tensor in request.inputs}
    required = {tensor.name for tensor in manifest.inputs if not tensor.optional}
    known = {tensor.name for tensor in manifest.inputs}
    if len(by_name) != len(request.inputs) or not required <= by_name.keys() <= known:
        names = [tensor.name for tensor in request.inputs]
        takes = [f"{tensor.name} (optional)" if tensor.optional else tensor.name for tensor in manifest.inputs]
        raise InvalidInputError(f"the inputs are {shown(names)}, model {manifest.name} takes {takes}, each once")
    if (left_out := known - by_name.keys()) not in (set(), known - required):
        raise InvalidInputError(
            f"input {', '.join(sorted(by_name.keys() - required))} comes without {', '.join(sorted(left_out))}: "
            f"model {manifest.name} takes all of its optional inputs or none, for they are parts of one state"
        )
    inputs = [(by_name[tensor.name], tensor) for tensor in manifest.inputs if tensor.name in by_name]
    for sent, tensor in inputs:
        _check_input(sent, tensor, manifest)
    check_equal_sizes(inputs, manifest)
    return inputs


def model_reader(sent: RequestInput, tensor: InputTensor) -> Reader:
    """Reads an input's values and checks that they lie within its bounds."""
    read = reader(sent)
    if tensor.minimum is None and tensor.maximum is None:
        return read

    def read_within_bounds(binary: Buffer) -> Array:
        array = read(binary)
        _check_bounds(array, tensor)
        return array

    return read_within_bounds


def reader(sent: RequestInput) -> Reader:
    """Reads a tensor's values from the bytes behind the JSON, or from the JSON itself. It raises InvalidInputError.

    Datatype, and sizes from 1, have been checked.
    """
    dtype, shape, data = DATATYPES[sent.datatype], tuple(sent.shape), sent.data
    if not isinstance(data, slice):
        return lambda _: _of_json(sent, dtype)
    start = data.start

    def read(binary: Buffer) -> Array:
        array: Array = np.ndarray(shape, dtype, binary, start)
        # Behind a JSON header of any length the bytes need not lie on the datatype's boundary.
        return array if array.flags.aligned else array.copy()

    if dtype.kind != "b":
        return read

    def read_bool(binary: Buffer) -> Array:
        array = read(binary)
        if (largest := int(array.view("u1").max(initial=0))) > 1:
            raise InvalidInputError(f"input {sent.name} has a byte of {largest}, a BOOL is 0 or 1")
        return array

    return read_bool


def _check_input(sent: RequestInput, tensor: InputTensor, manifest: Manifest) -> None:
    if sent.datatype != tensor.datatype:
        raise InvalidInputError(
            f"input {tensor.name} has datatype {shown(sent.datatype)}, model {manifest.name} takes {tensor.datatype}"
        )
    check_shape(sent.shape, tensor, manifest)
    check_data(sent)


def _of_json(sent: RequestInput, dtype: np.dtype[Any]) -> Array:
    if isinstance(sent.data, np.ndarray):
        return sent.data.reshape(sent.shape)
    if isinstance(sent.data, JsonNumbers):
        return array_of_numbers(sent.data, dtype, sent.name, sent.shape)
    assert isinstance(sent.data, list)  # noqa: S101  # a slice is none of the JSON's
    return _from_json(sent.data, dtype, sent.shape, sent.name)


def _raw_input(count: int, manifest: Manifest) -> tuple[RequestInput, InputTensor]:
    """A body that is one input's bytes: one row, and the one size that may vary follows from the byte count."""
    tensor, *others = [tensor for tensor in manifest.inputs if not tensor.optional]
    shape = list(tensor.shape)
    if manifest.batch_axis is not None:
        shape[manifest.batch_axis] = 1
    if others or shape.count(-1) > 1:
        raise InvalidInputError(
            f"{HEADER_LENGTH} is 0, but a raw body fits a model of one input with one variable size, "
            f"and model {manifest.name} takes {[f'{each.name} {each.shape}' for each in manifest.inputs]}"
        )
    if -1 in shape:
        known = math.prod(size for size in shape if size != -1) * DATATYPES[tensor.datatype].itemsize
        shape[shape.index(-1)] = count // known
    sent = RequestInput(tensor.name, tensor.datatype, shape, slice(0, count))
    _check_input(sent, tensor, manifest)
    return sent, tensor


def check_data(sent: RequestInput) -> None:
    """Raises InvalidInputError for FP16 in JSON, and where binary bytes are not what shape and datatype make."""
    if not isinstance(sent.data, slice):
        if sent.datatype == "FP16":
            raise InvalidInputError(f"input {sent.name} is FP16, which JSON cannot carry exactly: use binary")
        return
    expected, count = math.prod(sent.shape) * DATATYPES[sent.datatype].itemsize, sent.data.stop - sent.data.start
    if count != expected:
        raise InvalidInputError(
            f"input {sent.name} has {count} bytes of binary data, its shape {sent.shape} and datatype make {expected}"
        )


def array_of_numbers(numbers: JsonNumbers, dtype: np.dtype[Any], name: str, shape: list[int] | None = None) -> Array:
    """The tensor in a large JSON text, each piece checked as a whole tensor would be.

    shape: None where the lists say it. Raises InvalidInputError.
    """
    parts, filled = list[Array](), 0
    most = None if shape is None else math.prod(shape)
    try:
        for text in pieces(numbers):
            inner = shape or (list(parts[0].shape) if parts else None)
            part = None if inner is None else read_numbers(text, dtype, inner[1:])
            if part is None:
                piece = elements(text)
                inner = inner or shape_of(piece, name)
                nested = type(piece[0]) is list
                part = _from_json(piece, dtype, [len(piece), *inner[1:]] if nested else [len(piece)], name, filled)
            if parts and part.ndim != parts[0].ndim:
                raise InvalidInputError(f"input {name} is ragged: some of its elements are lists, some numbers")
            parts.append(part)
            filled += part.size
            if most is not None and filled > most:
                raise InvalidInputError(f"input {name} has more values than the {most} that its shape {shape} makes")
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"the data of input {name} is not JSON: {error}") from error
    if most is not None and filled != most:
        raise InvalidInputError(f"input {name} has {filled} values, its shape {shape} makes {most}")
    array = np.concatenate(parts)
    return array if shape is None else array.reshape(shape)


def shape_of(data: list[Any], name: str) -> list[int]:
    """Sizes of nested lists, by the first of each. Raises InvalidInputError when they are nested too deeply."""
    sizes: list[int] = []
    level: Any = data
    while isinstance(level, list):
        if len(sizes) == MAX_NESTING:
            raise InvalidInputError(f"input {name} is nested more than {MAX_NESTING} deep")
        sizes.append(len(level))
        level = level[0] if level else None
    return sizes


def _from_json(data: list[Any], dtype: np.dtype[Any], shape: list[int], name: str, first: int = 0) -> Array:
    """first: how many values came before."""
    values = _flat(data, shape, name)
    if len(values) != math.prod(shape):
        raise InvalidInputError(f"input {name} has {len(values)} values, its shape {shape} makes {math.prod(shape)}")
    allowed = _JSON_TYPES[dtype.kind]
    if not allowed.issuperset(map(type, values)):
        index, value = next((index, value) for index, value in enumerate(values) if type(value) not in allowed)
        raise InvalidInputError(
            f"input {name} has {shown(value)} at position {first + index}, it must be {_JSON_NAMES[dtype.kind]}"
        )
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, dtype)
    except OverflowError:
        limits = np.iinfo(dtype)
        value = next(value for value in values if not limits.min <= value <= limits.max)
        raise InvalidInputError(
            f"input {name} has {value} in it, which is outside {limits.min} to {limits.max}"
        ) from None
    if dtype.kind == "f" and not np.isfinite(array).all():  # JSON has no infinity, so this one was too large
        index = int(np.argmin(np.isfinite(array)))
        raise InvalidInputError(
            f"input {name} has {values[index]} at position {first + index}, too large for its datatype"
        )
    return array.reshape(shape)


def _flat(data: list[Any], shape: list[int], name: str) -> list[Any]:
    """Nested or flat, row-major -> flat. Raises InvalidInputError where the lists have not the sizes of ``shape``."""
    if not data or not shape or type(data[0]) is not list:
        return data
    if len(data) != shape[0]:
        raise InvalidInputError(
            f"input {name} has {len(data)} lists in it, its shape {shown(shape)} begins with {shape[0]}"
        )
    for size in shape[1:]:
        if set(map(type, data)) != {list} or set(map(len, data)) != {size}:
            raise InvalidInputError(f"input {name} is ragged: its lists have not everywhere the sizes of shape {shape}")
        data = list(chain.from_iterable(data))
    return data


def _check_bounds(array: Array, tensor: InputTensor) -> None:
    low, high = tensor.minimum, tensor.maximum
    # Written so that NaN, which a binary tensor can hold, is outside.
    if (low is None or bool((array >= low).all())) and (high is None or bool((array <= high).all())):
        return
    inside = np.ones(array.shape, bool)
    for bound, side in ((low, np.greater_equal), (high, np.less_equal)):
        if bound is not None:
            inside &= side(array, bound)
    raise InvalidInputError(
        f"input {tensor.name} has {array[~inside].flat[0]} in it, it must be "
        + " and ".join(
            f"{word} {int(bound) if bound.is_integer() else bound}"
            for word, bound in (("at least", low), ("at most", high))
            if bound is not None
        )
    )


# ---- arrays -> body --------------------------------------------------------------------------------------------------


def wanted(request: InferenceRequest, model_name: str, outputs: Sequence[OutputTensor]) -> Wanted:
    """The outputs to answer with, in the order asked for; by default all that are not ``on_request``.

    Raises InvalidInputError for a name the model does not have, or twice, and for FP16 in JSON.
    """
    by_name = {tensor.name: tensor for tensor in outputs}
    asked = request.outputs or [
        RequestedOutput(tensor.name, request.binary_data_output) for tensor in outputs if not tensor.on_request
    ]
    names = [output.name for output in asked]
    if not by_name.keys() >= set(names) or len(set(names)) != len(names):
        raise InvalidInputError(
            f"the outputs asked for are {shown(names)}, model {model_name} has {list(by_name)}, each once"
        )
    for output in asked:
        if by_name[output.name].datatype == "FP16" and not output.binary_data:
            raise InvalidInputError(
                f"output {output.name} is FP16, which JSON cannot carry exactly: ask for binary_data"
            )
    chosen = tuple((output.name, output.binary_data) for output in asked)
    return Wanted(
        request.id,
        chosen,
        nonfinite_as_null="nonfinite" in request.parameters,
        timeout_s=request.timeout_s,
        is_urgent=request.is_urgent,
    )


def check_finite(what: str, array: Array, instead: str) -> None:
    """Raises InvalidInputError when JSON could not carry an output, saying what to do instead."""
    if not np.isfinite(array).all():
        raise InvalidInputError(f"{what} has a value that is not finite, which JSON cannot carry: {instead}")


def encode(wanted: Wanted, model_name: str, model_version: str, arrays: Arrays) -> Answer:
    """The response body. Raises InvalidInputError when JSON would have to carry a number that is not finite."""
    if wanted.is_binary and wanted.id is None:
        outputs = [np.ascontiguousarray(arrays[name]) for name, _ in wanted.outputs]
        kinds = tuple([(array.dtype, array.shape) for array in outputs])
        text = _binary_text(wanted.outputs, model_name, model_version, kinds)
        return Answer([text], [array.data.cast("B") for array in outputs])
    return _encode(wanted, model_name, model_version, arrays)


@lru_cache(1024)
def _binary_text(
    outputs: tuple[tuple[str, bool], ...],
    model_name: str,
    model_version: str,
    kinds: tuple[tuple[np.dtype[Any], tuple[int, ...]], ...],
) -> bytes:
    """The JSON in front of binary tensors of these datatypes and shapes, which is the same in answer after answer."""
    described = []
    for (name, _), (dtype, shape) in zip(outputs, kinds, strict=True):
        size = math.prod(shape) * dtype.itemsize
        described.append(_described(name, dtype, shape) | {"parameters": {"binary_data_size": size}})
    return orjson.dumps({"model_name": model_name, "model_version": model_version, "outputs": described})


def _described(name: str, dtype: np.dtype[Any], shape: Sequence[int]) -> dict[str, Any]:
    return {"name": name, "datatype": DATATYPE_OF[dtype], "shape": list(shape)}


def _encode(wanted: Wanted, model_name: str, model_version: str, arrays: Arrays) -> Answer:
    document: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if wanted.id is not None:
        document["id"] = wanted.id
    text, tensors = [orjson.dumps(document)[:-1], b',"outputs":['], list[memoryview]()
    for name, is_binary in wanted.outputs:
        array = np.ascontiguousarray(arrays[name])
        entry = _described(name, array.dtype, array.shape)
        if is_binary:
            tensors.append(array.data.cast("B"))
            entry["parameters"] = {"binary_data_size": array.nbytes}
            text += [orjson.dumps(entry), b","]
            continue
        if array.dtype.kind == "f" and not wanted.nonfinite_as_null:
            instead = 'ask for it with binary_data, or set the request\'s parameter nonfinite to "null"'
            check_finite(f"output {name}", array, instead)
        text += [orjson.dumps(entry)[:-1], b',"data":', *written(array.ravel()), b"},"]
    text[-1] = text[-1][:-1]  # no comma behind the last one
    return Answer([*text, b"]}"], tensors)
