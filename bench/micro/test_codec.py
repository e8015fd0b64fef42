"""A request's body to arrays, and arrays to an answer's body: one row of 32 x 256, and one of 768."""

from typing import Any

import numpy as np
import orjson
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.oip import BINARY, JSON, encoded
from service import codec
from service.manifest import InputTensor, OutputTensor
from service.protocol import InferenceRequest
from service.request import parse
from service.served import Plans
from service.served_model import ModelPlan

ROWS = {"32x256": (1, 32, 256), "768": (1, 768)}


def plan(request: InferenceRequest) -> ModelPlan:
    (sent,) = request.inputs
    tensor = InputTensor(name="x", datatype="FP32", shape=[-1] * len(sent.shape))
    wanted = codec.wanted(request, "m", [OutputTensor(name="y", datatype="FP32", shape=[-1])])
    return ModelPlan(wanted, [("x", codec.model_reader(sent, tensor))])


def body_of(row: np.ndarray, form: str) -> tuple[bytes, int | None]:
    if form == "binary":
        body, headers = encoded({"x": row}, BINARY, {})
        return body, int(headers["Inference-Header-Content-Length"])
    if form == "nested":
        return encoded({"x": row}, JSON, {}, nested=True)[0], None
    tensor = {"name": "x", "datatype": "FP32", "shape": list(row.shape), "data": row.ravel()}
    return orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY), None


@pytest.fixture(params=list(ROWS))
def row(request: Any) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(ROWS[request.param]).astype("f4")


@pytest.mark.parametrize("form", ["binary", "flat", "nested"])
def test_decode(benchmark: BenchmarkFixture, row: np.ndarray, form: str) -> None:
    body, length = body_of(row, form)
    plans = Plans(plan)

    def decode() -> Any:
        found, binary = plans.of(body, length)
        return found.read(binary)

    assert benchmark(decode)["x"].tobytes() == row.tobytes()


def test_decode_by_orjson_alone(benchmark: BenchmarkFixture, row: np.ndarray) -> None:
    """What service/json_document.py is measured against."""
    body, _ = body_of(row, "flat")

    def decode() -> np.ndarray:
        data = orjson.loads(body)["inputs"][0]["data"]
        return np.array(data, "f4").reshape(row.shape)

    assert benchmark(decode).tobytes() == row.tobytes()


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_encode(benchmark: BenchmarkFixture, row: np.ndarray, binary: bool) -> None:
    request = parse(body_of(row, "flat")[0], None)
    wanted = codec.Wanted(request.id, (("y", binary),), nonfinite_as_null=False)
    assert benchmark(lambda: codec.encode(wanted, "m", "1", {"y": row})).text
