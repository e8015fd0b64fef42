"""How each kind of server wants a tensor, and where it puts its answer: bodies and headers, and back to arrays."""

import json
from collections.abc import Mapping

import numpy as np

HEADER_LENGTH = "Inference-Header-Content-Length"
AS_JSON = {"Content-Type": "application/json"}

Body = tuple[bytes, dict[str, str]]


def plain_request(x: np.ndarray) -> Body:
    """``{"x": [[[...]]]}``: servers without a protocol of their own."""
    return json.dumps({"x": x.tolist()}).encode(), AS_JSON


def plain_answer(body: bytes, _headers: Mapping[str, str]) -> np.ndarray:
    """Of ``{"y": [[[...]]]}``."""
    return np.array(json.loads(body)["y"], np.float32)


def bare_answer(body: bytes, _headers: Mapping[str, str]) -> np.ndarray:
    """Of ``[[[...]]]``."""
    return np.array(json.loads(body), np.float32)


def oip_request(x: np.ndarray) -> Body:
    """The Open Inference Protocol's JSON, row-major and flat."""
    tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode(), AS_JSON


def oip_binary_request(x: np.ndarray) -> Body:
    """The protocol's binary tensors, asking for the same back."""
    tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return header + x.astype("<f4").tobytes(), headers


def oip_answer(body: bytes, headers: Mapping[str, str]) -> np.ndarray:
    """The one output, binary when the headers say so. Raises ValueError when it does not fill its shape."""
    length = headers.get(HEADER_LENGTH)
    (output,) = json.loads(body[: int(length)] if length else body)["outputs"]
    y = np.frombuffer(body[int(length) :], "<f4") if length else np.array(output["data"], np.float32)
    return y.reshape(output["shape"])
