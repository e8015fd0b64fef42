"""The ways in which a row can be had over HTTP: one request each, the server that answers it, and how to read it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import orjson

from bench.load import Load, Loaded, answer_to, loaded
from bench.oip import BINARY, JSON, encoded
from bench.peers import wire
from bench.servers import Server

PORT, NAIVE_PORT, ECHO_PORT = 8391, 8392, 8393
RTOL, ATOL = 1e-4, 1e-5  # of other sessions and other ways of writing numbers


@dataclass(frozen=True)
class Way:
    """Whose answers are compared bit for bit under load is asked to have the same bytes each time."""

    load: Load
    server: Server
    read: Callable[[bytes, wire.Headers], np.ndarray]
    repeats: bool = True

    def check(self, expected: np.ndarray) -> bytes:
        """The body of one answer. Raises RuntimeError when it is not the expected one."""
        body, headers = answer_to(self.load)
        found = self.read(body, headers)
        if not np.allclose(found.ravel(), expected.ravel(), rtol=RTOL, atol=ATOL):
            raise RuntimeError(f"{self.load.url} does not answer what onnxruntime does")
        return body

    def measure(self, connections: int, seconds: float, expected: bytes | None) -> tuple[Loaded, float]:
        """Figures, and processor seconds that the server used for a request. expected: the body of every answer."""
        before = self.server.cpu_seconds()
        found = loaded(self.load, connections=connections, seconds=seconds, expected=expected if self.repeats else None)
        return found, (self.server.cpu_seconds() - before) / found.requests


def ours(model: str, row: np.ndarray, server: Server) -> dict[str, Way]:
    """The service, in each form that its protocol has. Flat JSON has the fewest digits, nested those of a float64."""
    url = f"http://127.0.0.1:{PORT}/v2/models/{model}/infer"
    tensor = {"name": "x", "datatype": "FP32", "shape": list(row.shape), "data": row.ravel()}
    flat = orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)
    return {
        "binary": Way(Load(url, *encoded({"x": row}, BINARY, {})), server, wire.oip_answer),
        "JSON, flat": Way(Load(url, flat, {"Content-Type": "application/json"}), server, wire.oip_answer),
        "JSON, nested": Way(Load(url, *encoded({"x": row}, JSON, {}, nested=True)), server, wire.oip_answer),
    }


def naive(row: np.ndarray, server: Server) -> Way:
    """bench/naive_server.py."""
    load = Load(f"http://127.0.0.1:{NAIVE_PORT}/infer", *wire.plain_request(row))
    return Way(load, server, wire.plain_answer)
