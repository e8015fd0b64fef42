"""How each kind of server wants a tensor, and where it puts its answer: bodies and headers, and back to arrays."""

import json
from collections.abc import Mapping
from email.message import Message

import numpy as np

from bench.oip import BINARY, HEADER_LENGTH, JSON, encoded

AS_JSON = {"Content-Type": "application/json"}

Body = tuple[bytes, dict[str, str]]
Headers = Mapping[str, str] | Message  # urllib's know a name in any case


def plain_request(x: np.ndarray) -> Body:
    """``{"x": [[[...]]]}``: servers without a protocol of their own."""
    return json.dumps({"x": x.tolist()}).encode(), AS_JSON


def plain_answer(body: bytes, _headers: Headers) -> np.ndarray:
    """Of ``{"y": [[[...]]]}``."""
    return np.array(json.loads(body)["y"], np.float32)


def bare_answer(body: bytes, _headers: Headers) -> np.ndarray:
    """Of ``[[[...]]]``."""
    return np.array(json.loads(body), np.float32)


def oip_request(x: np.ndarray) -> Body:
    """The Open Inference Protocol's JSON, row-major and flat."""
    return encoded({"x": x}, JSON, {})


def oip_binary_request(x: np.ndarray) -> Body:
    """The protocol's binary tensors, asking for the same back."""
    return encoded({"x": x}, BINARY, {})


def oip_answer(body: bytes, headers: Headers) -> np.ndarray:
    """The one output, binary when the headers say so. Raises ValueError when it does not fill its shape."""
    length = headers.get(HEADER_LENGTH)
    (output,) = json.loads(body[: int(length)] if length else body)["outputs"]
    y = np.frombuffer(body[int(length) :], "<f4") if length else np.array(output["data"], np.float32)
    return y.reshape(output["shape"])
