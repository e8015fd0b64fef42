"""Any server of the Open Inference Protocol v2: what it says of a model, and requests that the model accepts."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np

HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY, JSON = "binary", "json"
DTYPES = {
    "BOOL": "?",
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}
DIFFERENT_INPUTS = (
    4  # sent by turns: one alone could be answered from a cache, and neighbours in a batch would be alike
)
DEFAULT_ROWS, DEFAULT_LENGTH = 1, 16
TIMEOUT_S = 60
API_KEY = "NORMSERVE_API_KEY"  # of the environment: a setting of make would stand in the list of processes
LONGEST_ERROR = 300  # an HTML error page is of no use in a table of failures

# A proxy of the environment is not asked: Locust does not ask it either, and both must reach the same server.
_open = build_opener(ProxyHandler({})).open


class LoadError(Exception):
    """Nothing can be loaded; the message says which setting or answer is to blame and what is allowed."""


@dataclass(frozen=True)
class Wanted:
    """What is to be sent; None leaves the choice to the server's metadata."""

    model: str
    rows: int | None = None
    length: int | None = None
    wire_format: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """Status and body of any HTTP answer."""

    status: int
    body: bytes
    header_length: str | None

    @property
    def error(self) -> str:
        """The server's own words: of ``{"error": "..."}``, or the beginning of whatever it sent."""
        try:
            text = str(json.loads(self.body)["error"])
        except (ValueError, KeyError, TypeError):
            text = self.body.decode(errors="replace")
        return text.strip()[:LONGEST_ERROR]

    def outputs(self) -> tuple[str, bytes]:
        """The tensors without what may differ between equal answers, such as an id. Raises ValueError."""
        length = len(self.body) if self.header_length is None else int(self.header_length)
        document = json.loads(self.body[:length])
        if not isinstance(document, dict) or not document.get("outputs"):
            raise ValueError("the answer has no outputs")
        return json.dumps(document["outputs"], sort_keys=True), self.body[length:]

    def has_the_outputs_of(self, other: "Answer") -> bool:
        """Bit for bit; whole bodies are compared first, because parsing would cost the load generator its pace."""
        try:
            return self.body == other.body or self.outputs() == other.outputs()
        except ValueError:
            return False


@dataclass(frozen=True)
class InferRequest:
    """One request, sent again and again, and the first answer to it."""

    body: bytes
    headers: dict[str, str]
    first: Answer


@dataclass(frozen=True)
class Target:
    """A model that answers."""

    path: str
    requests: list[InferRequest]
    described: str


def key_headers() -> dict[str, str]:
    """What shows the server the API key, where the environment has one. Raises LoadError, which does not show it."""
    key = os.environ.get(API_KEY)
    if key is None:
        return {}
    if not key.isascii() or not key.isprintable() or not key or " " in key:
        raise LoadError(f"{API_KEY} must have at least one character, and only visible ASCII ones without spaces")
    return {"Authorization": f"Bearer {key}"}


def ask(url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """GET, or POST where there is a body, with the API key. Raises LoadError when nobody answers."""
    request = Request(url, body, dict(headers or {}))  # noqa: S310  # server_url() has looked at the scheme
    for name, value in key_headers().items():
        request.add_unredirected_header(name, value)  # whoever else we may be sent to does not get it
    try:
        with _open(request, timeout=TIMEOUT_S) as answer:
            return Answer(answer.status, answer.read(), answer.headers.get(HEADER_LENGTH))
    except HTTPError as error:
        with error:
            return Answer(error.code, error.read(), error.headers.get(HEADER_LENGTH))
    except (OSError, HTTPException) as error:
        raise LoadError(f"{url} does not answer ({getattr(error, 'reason', error)}); is the server running?") from error


def find(url: str, wanted: Wanted) -> Target:
    """The model at ``url``, each of its requests answered once. Raises LoadError."""
    greeting = ask(f"{url}/v2")
    if greeting.status == HTTPStatus.UNAUTHORIZED:
        raise LoadError(f"URL={url} answers 401: {greeting.error}; make load takes the key from {API_KEY}")
    server = _parsed(greeting)
    if server is None:
        raise LoadError(f"URL={url} answers, but GET /v2 is not that of the Open Inference Protocol v2")
    address = f"{url}/v2/models/{quote(wanted.model, safe='')}"
    described = ask(address) if wanted.model else Answer(404, b"", None)
    metadata = _parsed(described)
    if metadata is None:
        raise LoadError(_no_such_model(url, wanted.model, described))
    config = _document(f"{address}/config") or {}
    wire_format = wanted.wire_format
    if wire_format is None:
        wire_format = BINARY if "binary_tensor_data" in (server.get("extensions") or []) else JSON
    shapes = _shapes(metadata, config, wanted)
    rng = np.random.default_rng(0)
    requests = []
    for _ in range(DIFFERENT_INPUTS):
        arrays = {name: _drawn(*shapes[name], rng) for name in shapes}
        body, headers = encoded(arrays, wire_format, wanted.parameters)
        first = ask(f"{address}/infer", body, headers)
        if first.status != 200:
            raise LoadError(f"MODEL={wanted.model} answers a first request with {first.status}: {first.error}")
        try:
            first.outputs()
        except ValueError as error:
            raise LoadError(f"MODEL={wanted.model} does not answer by the protocol: {error}") from error
        requests.append(InferRequest(body, headers | key_headers(), first))
    text = ", ".join(f"{name} {tensor['datatype']} {list(shape)}" for name, (tensor, shape) in shapes.items())
    return Target(address.removeprefix(url) + "/infer", requests, f"{text}, {wire_format}")


def server_url(text: str) -> str:
    """Without the slash at the end. Raises LoadError."""
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # what stands where the port should is none
        known = False
    if not known:
        raise LoadError(f"URL={text} must be http://HOST:PORT or https://HOST:PORT, such as http://127.0.0.1:8000")
    return text.rstrip("/")


def _parsed(answer: Answer) -> dict[str, Any] | None:
    """The JSON object of an answer of status 200."""
    try:
        document = json.loads(answer.body) if answer.status == 200 else None
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _document(url: str) -> dict[str, Any] | None:
    return _parsed(ask(url))


def _no_such_model(url: str, model: str, answer: Answer) -> str:
    listed = _document(f"{url}/v2/models")  # not of the protocol: ours and some others have it
    models = (listed or {}).get("models") or []
    if models and model not in models:
        return f"MODEL={model} is not among the models of {url}: {', '.join(map(str, models))}"
    return f"MODEL={model}: {url} answers {answer.status}: {answer.error}"


def _shapes(
    metadata: dict[str, Any], config: dict[str, Any], wanted: Wanted
) -> dict[str, tuple[dict[str, Any], tuple[int, ...]]]:
    """Every input that must be sent, with what the server says of its values, and the shape it gets."""
    bounds = {tensor.get("name"): tensor for tensor in config.get("input") or []}
    tensors = [bounds.get(tensor["name"], {}) | tensor for tensor in metadata.get("inputs") or []]
    tensors = [tensor for tensor in tensors if not tensor.get("optional")]
    if not tensors:
        raise LoadError(f"MODEL={wanted.model}: the server's metadata names no inputs, so none can be drawn")
    any_shape = "datatypes" in metadata  # an operation of ours: its [-1] is not one axis, but any number of them
    shapes = {tensor["name"]: [-1, -1] if any_shape else [int(size) for size in tensor["shape"]] for tensor in tensors}
    free = {min(axis, 1) for shape in shapes.values() for axis, size in enumerate(shape) if size == -1}
    for axis, setting, value in ((0, "BATCH", wanted.rows), (1, "LENGTH", wanted.length)):
        if value is not None and axis not in free:
            raise LoadError(
                f"{setting}={value} has no effect: MODEL={wanted.model} takes {shapes}, and only -1 is free"
            )
    most_rows = config.get("max_batch_size") or 0  # 0: the server has no such bound
    rows, length = wanted.rows or DEFAULT_ROWS, wanted.length or DEFAULT_LENGTH
    found = {}
    for tensor in tensors:
        name = tensor["name"]
        if tensor["datatype"] not in DTYPES:
            raise LoadError(
                f"MODEL={wanted.model}: {name} is {tensor['datatype']}; what can be drawn is {', '.join(DTYPES)}"
            )
        most = tensor.get("max_shape") or [most_rows] + [0] * len(shapes[name])
        least = tensor.get("min_shape") or [1] * len(shapes[name])
        for axis, size in enumerate(shapes[name]):
            setting, value = ("LENGTH", length) if axis else ("BATCH", rows)
            if size == -1 and 0 < most[axis] < value:
                raise LoadError(f"{setting}={value} is more than MODEL={wanted.model} takes: at most {most[axis]}")
            if size == -1 and value < least[axis]:
                raise LoadError(f"{setting}={value} is less than MODEL={wanted.model} takes: at least {least[axis]}")
        sizes = [(length if axis else rows) if size == -1 else size for axis, size in enumerate(shapes[name])]
        found[name] = (tensor, tuple(sizes))
    return found


def _drawn(tensor: dict[str, Any], shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Whole numbers between the bounds of the server, or 0 and 1; real ones between its bounds, or normal."""
    dtype = np.dtype(DTYPES[tensor["datatype"]])
    low, high = tensor.get("minimum"), tensor.get("maximum")
    if dtype.kind != "f":
        smallest = min(0, int(high or 0)) if low is None else int(low)
        largest = smallest + 1 if high is None else int(high)
        return rng.integers(smallest, largest, shape, endpoint=True).astype(dtype)
    if low is not None and high is not None:
        return rng.uniform(low, high, shape).astype(dtype)
    return np.clip(rng.standard_normal(shape), low, high).astype(dtype)


def encoded(
    arrays: dict[str, np.ndarray], wire_format: str, parameters: dict[str, Any], *, nested: bool = False
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request. nested: JSON lists in lists, as the shape has it; flat otherwise."""
    names = {np.dtype(dtype): datatype for datatype, dtype in DTYPES.items()}
    inputs: list[dict[str, Any]] = [
        {"name": name, "datatype": names[array.dtype], "shape": list(array.shape)} for name, array in arrays.items()
    ]
    # Compressed answers would be compared by their compression, and timed with it.
    headers = {"Accept-Encoding": "identity"}
    if wire_format == JSON:
        for tensor, array in zip(inputs, arrays.values(), strict=True):
            if tensor["datatype"] == "FP16":
                raise LoadError(f"FORMAT=json: {tensor['name']} is FP16, which JSON has not; use FORMAT=binary")
            tensor["data"] = (array if nested else array.ravel()).tolist()
        document = {"inputs": inputs, "parameters": parameters} if parameters else {"inputs": inputs}
        return json.dumps(document).encode(), headers | {"Content-Type": "application/json"}
    for tensor, array in zip(inputs, arrays.values(), strict=True):
        tensor["parameters"] = {"binary_data_size": array.nbytes}
    header = json.dumps({"inputs": inputs, "parameters": parameters | {"binary_data_output": True}}).encode()
    content = b"".join([header, *(array.tobytes() for array in arrays.values())])
    return content, headers | {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
