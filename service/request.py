"""A request's body -> :class:`InferenceRequest`: its JSON, and which bytes behind it belong to which tensor."""

from collections.abc import Collection
from typing import Any

import numpy as np
import orjson

from service.errors import InvalidInputError, shown
from service.json_document import read_document
from service.json_numbers import cut_out
from service.off_the_loop import JSON_COSTS, LARGE_BYTES, SIMD_JSON_COSTS
from service.protocol import HEADER_LENGTH, InferenceRequest, JsonNumbers, Parameters, RequestedOutput, RequestInput

# Before anything is done for each of them; far above what any model has.
MAX_TENSORS, MAX_RANK = 256, 32
_SEARCHED_BYTES = 2**16  # for NaN, when a body is no JSON

# Triton's extensions that would change the answer: silence would be a wrong answer.
_NOT_OFFERED = frozenset({"classification", "shared_memory_region", "sequence_id"})
_FIELDS = frozenset({"id", "parameters", "inputs", "outputs"})
_INPUT_FIELDS = frozenset({"name", "datatype", "shape", "data", "parameters"})
_KINDS: dict[type, str] = {str: "a string", int: "an integer", bool: "true or false"}


def parse(body: bytes | bytearray, length: int | None) -> InferenceRequest:
    """The request in ``body``, of which ``length`` bytes are JSON; None where no header says so: all of it.

    It holds nothing of the bytes behind the JSON.
    Raises InvalidInputError saying which field is wrong, what it was and what it must be.
    """
    if length == 0:
        return InferenceRequest(raw=len(body), binary_data_output=True)
    document, numbers = _document(body, length)
    inputs, taken, binary_bytes = [], 0, 0 if length is None else len(body) - length
    for index, item in enumerate(_list(document.get("inputs"), "inputs", MAX_TENSORS)):
        tensor = _request_input(_object(item, f"inputs[{index}]"), index, taken, binary_bytes, numbers)
        inputs.append(tensor)
        taken = tensor.data.stop if isinstance(tensor.data, slice) else taken
    if taken != binary_bytes:
        raise InvalidInputError(
            f"{binary_bytes} bytes follow the JSON, but the inputs' binary_data_size add up to {taken}"
        )
    parameters = _parameters(document, "the request")
    if parameters.get("nonfinite", "null") != "null":
        raise InvalidInputError(f"parameter nonfinite is {shown(parameters['nonfinite'])}, it can only be 'null'")
    binary_data_output = bool(_optional(parameters, "binary_data_output", bool, "the request"))
    timeout_us = _count(parameters, "timeout", "microseconds, 0 for none of its own")
    return InferenceRequest(
        id=_optional(document, "id", str, "the request"),
        parameters=parameters,
        inputs=inputs,
        outputs=_requested_outputs(document, binary_data_output),
        binary_data_output=binary_data_output,
        timeout_s=timeout_us / 1e6 if timeout_us else None,
        is_urgent=_count(parameters, "priority", "1 for the highest, 0 or any other for the usual") == 1,
        unknown=_unknown(document),
    )


def _document(body: bytes | bytearray, length: int | None) -> tuple[dict[str, Any], dict[str, JsonNumbers]]:
    """The JSON at the body's beginning, and what was cut out of it. Numbers may be arrays in it already."""
    hint = f"a body with binary tensors needs the header {HEADER_LENGTH}"
    hint = hint if length is None else f"{HEADER_LENGTH} may be wrong"
    length = len(body) if length is None else length
    text: bytes | memoryview = memoryview(body)[:length]
    numbers: dict[str, JsonNumbers] = {}
    if SIMD_JSON_COSTS * length <= LARGE_BYTES and (document := read_document(memoryview(text))) is not None:
        return document, {}
    if JSON_COSTS * length > LARGE_BYTES:
        text, numbers = cut_out(body, length, "data")
    return _object(parse_json(text, hint), "the body"), numbers


def _unknown(document: dict[str, Any]) -> tuple[str, ...]:
    """Fields of the request, and parameters of its inputs, that mean nothing: misspelt, or in the wrong place."""
    fields = [field for field in document if field not in _FIELDS]
    for item in document["inputs"]:
        fields += [field for field in item if field not in _INPUT_FIELDS]
        fields += [name for name in item.get("parameters") or {} if name != "binary_data_size"]
    return tuple(fields)


def parse_index(body: bytes | bytearray) -> bool:
    """POST /v2/repository/index: whether only models that serve are asked for. An empty body asks for all."""
    if not body:
        return False
    document = _object(parse_json(body), "the body")
    if unknown := document.keys() - {"ready"}:
        raise InvalidInputError(f"the body has a field {shown(min(unknown))}, its one field is ready")
    return bool(_optional(document, "ready", bool, "the body"))


def parse_control(body: bytes | bytearray, takes: Collection[str] = ()) -> None:
    """POST /v2/repository/models/{name}/load and /unload: empty, or parameters, of which it takes these, as booleans.

    Triton takes a configuration and files there: here nothing is served that is not in the model's folder.
    """
    if not body:
        return
    document = _object(parse_json(body), "the body")
    if unknown := document.keys() - {"parameters"}:
        raise InvalidInputError(f"the body has a field {shown(min(unknown))}, its one field is parameters")
    parameters = _parameters(document, "the request")
    for name in parameters:
        if name not in takes:
            taken = f"its parameters are {', '.join(takes)}" if takes else "it has no parameters"
            raise InvalidInputError(
                f"the request has a parameter {shown(name)}, {taken}: a model is loaded as it stands in its folder, "
                "no configuration and no file is taken from a request"
            )
        _optional(parameters, name, bool, "the request")


def json_length(header: bytes, body_length: int) -> int:
    """How much of a body is JSON, by the header that says so. Raises InvalidInputError."""
    if header.isdigit() and len(header) < 20 and (length := int(header)) <= body_length:
        return length
    said = shown(header.decode("latin-1"))
    raise InvalidInputError(
        f"{HEADER_LENGTH} is {said}, it must be an integer from 0 to {body_length}, the body's bytes"
    )


def parse_json(text: bytes | bytearray | memoryview, hint: str = "") -> Any:
    """Any JSON, less the numbers that were cut out. hint: what else may be wrong. Raises InvalidInputError."""
    if len(text) > LARGE_BYTES:  # the parser would hold up everybody, in whatever thread
        raise InvalidInputError(
            f"{len(text)} bytes of the body are no list of numbers under data, at most {LARGE_BYTES} may be: "
            "it is not JSON, or something else in it is large"
        )
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        start = bytes(text[:_SEARCHED_BYTES])
        if b"NaN" in start or b"Infinity" in start:
            hint = "NaN and Infinity are no JSON numbers: send them as binary, to /v2/models/{name}/infer"
        elif "infinity" in error.msg or "recursion" in error.msg:  # it is JSON, of too large a number or too deep
            hint = ""
        raise InvalidInputError(f"the body is not JSON: {error}" + (f"; {hint}" if hint else "")) from error


def _request_input(
    item: dict[str, Any], index: int, taken: int, binary_bytes: int, numbers: dict[str, JsonNumbers]
) -> RequestInput:
    """One entry of ``inputs``, of which the bytes behind the first ``taken`` are. numbers: what was cut out."""
    name = _required(item, "name", str, f"inputs[{index}]")
    where = f"input {shown(name)}"
    datatype = _required(item, "datatype", str, where)
    shape = _list(item.get("shape"), f"the shape of {where}", MAX_RANK)
    for size in shape:
        if type(size) is not int or size < 0:
            raise InvalidInputError(f"the shape of {where} has {shown(size)} in it, sizes are integers from 0 up")
    size = _optional(_parameters(item, where), "binary_data_size", int, where)
    if size is None:
        data = item.get("data")
        if isinstance(data, str) and data in numbers:
            return RequestInput(name, datatype, shape, numbers[data])
        if isinstance(data, np.ndarray):
            return RequestInput(name, datatype, shape, data)
        return RequestInput(name, datatype, shape, _list(data, f"the data of {where}"))
    if "data" in item:
        raise InvalidInputError(f"{where} has both data and binary_data_size, it must have one of them")
    if not 0 <= size <= binary_bytes - taken:
        raise InvalidInputError(
            f"binary_data_size of {where} is {size}, but {binary_bytes - taken} bytes of binary data are there for it"
        )
    return RequestInput(name, datatype, shape, slice(taken, taken + size))


def _requested_outputs(document: dict[str, Any], binary_by_default: bool) -> list[RequestedOutput] | None:
    if document.get("outputs") is None:
        return None
    outputs = []
    for index, item in enumerate(_list(document["outputs"], "outputs", MAX_TENSORS)):
        name = _required(_object(item, f"outputs[{index}]"), "name", str, f"outputs[{index}]")
        wishes = _parameters(item, f"output {shown(name)}")
        binary = _optional(wishes, "binary_data", bool, f"output {shown(name)}")
        outputs.append(RequestedOutput(name, binary_by_default if binary is None else binary))
    return outputs


def _count(parameters: Parameters, name: str, meaning: str) -> int:
    """A parameter that is an integer from 0 up; 0 where it is left out."""
    value = parameters.get(name, 0)
    if type(value) is not int or value < 0:
        raise InvalidInputError(f"parameter {name} is {shown(value)}, it must be an integer from 0 up: {meaning}")
    return value


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInputError(f"{where} is {shown(value)}, it must be a JSON object")
    return value


def _list(value: Any, where: str, most: int | None = None) -> list[Any]:
    if not isinstance(value, list):
        was = "missing" if value is None else shown(value)
        raise InvalidInputError(f"{where}: {was}, it must be a JSON list")
    if most is not None and len(value) > most:
        raise InvalidInputError(f"{where}: {len(value)} entries, there may be at most {most}")
    return value


def _optional(item: dict[str, Any], field: str, kind: type, where: str) -> Any:
    value = item.get(field)
    if value is not None and type(value) is not kind:
        raise InvalidInputError(f"{field} of {where} is {shown(value)}, it must be {_KINDS[kind]}")
    return value


def _required(item: dict[str, Any], field: str, kind: type, where: str) -> Any:
    if item.get(field) is None:
        raise InvalidInputError(f"{where} has no {field}, it must be {_KINDS[kind]}")
    return _optional(item, field, kind, where)


def _parameters(item: dict[str, Any], where: str) -> Parameters:
    """Parameters are strings, numbers or booleans: the protocol has no lists there."""
    parameters = _object({} if item.get("parameters") is None else item["parameters"], f"parameters of {where}")
    for name, value in parameters.items():
        if name in _NOT_OFFERED:
            raise InvalidInputError(f"{where} asks for {name}, which this server does not offer")
        if not isinstance(value, str | int | float):
            raise InvalidInputError(
                f"parameter {shown(name)} of {where} is {shown(value)}, it must be a string, a number or a boolean"
            )
    return parameters
