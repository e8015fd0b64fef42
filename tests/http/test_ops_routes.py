"""``/v1/ops``: the documented examples run, answers are those of the OIP models, and errors name what is wrong."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from service.op_bodies import BODIES
from service.op_runtime import Operator
from service.ops import OPERATIONS
from service.protocol import HEADER_LENGTH

OPERATOR = Operator()


def post(address: str, name: str, body: Any) -> httpx.Response:
    return httpx.post(f"{address}/v1/ops/{name}", content=body if isinstance(body, bytes) else json.dumps(body))


def test_every_documented_example_runs_and_has_its_documented_shape(address: str) -> None:
    document = httpx.get(f"{address}/openapi.json").json()
    schemas, paths = document["components"]["schemas"], document["paths"]
    documented = {path: item["post"] for path, item in paths.items() if path.startswith("/v1/ops/") and "post" in item}
    assert {path.rsplit("/", 1)[1] for path in documented} == set(OPERATIONS)
    for path, item in documented.items():
        assert set(item["responses"]) == {"200", "400", "408", "413", "415", "429", "431", "500", "503", "504"}
        content = item["requestBody"]["content"]["application/json"]
        answer = httpx.post(address + path, json=content["example"])
        assert answer.status_code == 200, path
        schema = schemas[_named(item["responses"]["200"]["content"])]
        assert set(schema["required"]) <= set(answer.json()) <= set(schema["properties"])
        limits = schemas[_named(item["requestBody"]["content"])]["properties"]
        assert limits["eps"]["exclusiveMinimum"] == 0
        assert limits["datatype"]["enum"] == ["FP32", "FP64"]


def _named(content: dict[str, Any]) -> str:
    reference: str = content["application/json"]["schema"]["$ref"]
    return reference.removeprefix("#/components/schemas/")


def test_the_list_has_formula_parameters_and_paper(address: str) -> None:
    listed = httpx.get(f"{address}/v1/ops").json()
    assert [each["name"] for each in listed] == list(OPERATIONS)
    for each in listed:
        assert "arXiv" in each["source"]
        assert each["formula"].startswith("y = ")
        assert each == httpx.get(f"{address}/v1/ops/{each['name']}").json()
        assert set(each["parameters"]) <= set(BODIES[each["name"]].model_fields)
        assert httpx.get(address + each["model"]).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_operation_is_a_404_that_names_those_there_are(address: str, method: str) -> None:
    answer = httpx.request(method, f"{address}/v1/ops/power_norm")
    assert answer.status_code == 404
    assert "no operation 'power_norm'; the operations are layer_norm, rms_norm" in answer.json()["error"]


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_the_answer_has_the_bits_of_the_oip_model(address: str, datatype: str) -> None:
    dtype = {"FP32": "f4", "FP64": "f8"}[datatype]
    x = np.random.default_rng(0).standard_normal((3, 5, 70)).astype(dtype)
    weight = np.random.default_rng(1).standard_normal(70).astype(dtype)
    body = {"x": x.tolist(), "weight": weight.tolist(), "eps": 1e-3, "datatype": datatype, "return_stats": True}
    ours = post(address, "layer_norm", body).json()
    inputs = [
        {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}
        for name, array in (("x", x), ("weight", weight))
    ]
    outputs = [{"name": name} for name in ("y", "mean", "inv_std")]
    oip = {"inputs": inputs, "outputs": outputs, "parameters": {"eps": 1e-3}}
    theirs = httpx.post(f"{address}/v2/models/layer_norm/infer", json=oip).json()["outputs"]
    assert (ours["datatype"], ours["shape"]) == (datatype, [3, 5, 70])
    for output in theirs:
        assert np.array(ours[output["name"]]).ravel().tolist() == output["data"]
        assert list(np.array(ours[output["name"]]).shape) == output["shape"]


def test_normalized_shape_says_the_same_as_axis(address: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).tolist()
    by_axis, by_shape, both = (
        post(address, "rms_norm", {"x": x, **more}).json()
        for more in ({"axis": 1}, {"normalized_shape": [3, 4]}, {"normalized_shape": [3, 4], "axis": -2})
    )
    assert by_axis == by_shape == both
    expected = F.rms_norm(torch.tensor(x), (3, 4), eps=1e-5).numpy()
    np.testing.assert_allclose(by_axis["y"], expected, rtol=1e-5, atol=1e-6)


def test_training_shows_what_layer_norm_does_not_need(address: str) -> None:
    x = [[1.0, 2.0], [3.0, 5.0]]
    answer = post(address, "batch_norm", {"x": x, "training": True, "momentum": 1, "datatype": "FP64"}).json()
    assert answer["running_mean"] == [2.0, 3.5]
    assert answer["running_var"] == [2.0, 4.5]  # unbiased
    again = post(address, "batch_norm", {"x": x, "running_mean": [2, 3.5], "running_var": [2, 4.5], "eps": 1e-9}).json()
    assert "running_mean" not in again
    assert post(address, "layer_norm", {"x": x, "training": True}).status_code == 400


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("layer_norm", b"", "the body is not JSON"),
        ("layer_norm", b'{"x": [NaN]}', "NaN and Infinity are no JSON numbers: send them as binary"),
        ("layer_norm", [], "the body is [], it must be a JSON object"),
        ("layer_norm", {}, "x: Field required"),
        ("layer_norm", {"x": 3}, "x is 3: Input should be a valid list"),
        ("layer_norm", {"x": []}, "input x has shape [0], each size must be at least 1"),
        ("layer_norm", {"x": [[]]}, "input x has shape [1, 0]"),
        ("layer_norm", {"x": [[[[[[[[[1]]]]]]]]]}, "input x has 9 sizes, it must have 1 to 8"),
        ("layer_norm", {"x": [[1, 2], [3]]}, "input x is ragged"),
        ("layer_norm", {"x": [1, [2]]}, "input x has [2] at position 1, it must be a number"),
        ("layer_norm", {"x": [1, True]}, "input x has true at position 1, it must be a number"),
        ("layer_norm", {"x": [1, "2"]}, "input x has '2' at position 1"),
        ("layer_norm", {"x": [1, 1e39]}, "input x has 1e+39 at position 1, too large for its datatype"),
        ("layer_norm", {"x": [1, 2], "eps": 0}, "eps is 0: Input should be greater than 0"),
        ("layer_norm", {"x": [1, 2], "eps": "small"}, "eps is 'small': Input should be a valid number"),
        ("layer_norm", {"x": [1, 2], "epsilon": 1}, "layer_norm has no field 'epsilon', its fields are x, weight"),
        ("layer_norm", {"x": [1, 2], "datatype": "FP16"}, "datatype is 'FP16': Input should be 'FP32' or 'FP64'"),
        ("layer_norm", {"x": [1, 2], "weight": [1, 2, 3]}, "weight has shape [3], it must be [2]"),
        ("layer_norm", {"x": [1, 2], "axis": 1}, "axis is 1, for x of shape [2] it must be from -1 to 0"),
        (
            "layer_norm",
            {"x": [1, 2], "normalized_shape": [3]},
            "normalized_shape is [3], x of shape [2] must end in it",
        ),
        ("layer_norm", {"x": [1, 2], "normalized_shape": []}, "normalized_shape is [], x of shape [2] must end in it"),
        (
            "layer_norm",
            {"x": [[1]], "normalized_shape": [1], "axis": 0},
            "axis is 0 and normalized_shape [1]: give one",
        ),
        (
            "layer_norm",
            {"x": [[1]], "normalized_shape": [1], "axis": 5},
            "axis is 5 and normalized_shape [1]: give one",
        ),
        ("layer_norm", {"x": [1, 2, 5], "weight": [3e38] * 3}, "y has a value that is not finite"),
        ("group_norm", {"x": [[1, 2, 3]]}, "num_groups: Field required"),
        ("group_norm", {"x": [[1, 2, 3]], "num_groups": 2}, "num_groups is 2, it must divide the 3 channels"),
        (
            "group_norm",
            {"x": [[1, 2, 3]], "num_groups": 0},
            "num_groups is 0: Input should be greater than or equal to 1",
        ),
        ("instance_norm", {"x": [[1, 2, 3]]}, "x has shape [1, 3], instance_norm takes (N, C, ...)"),
        ("batch_norm", {"x": [[1, 2]]}, "batch_norm needs running_mean unless training is true"),
        ("batch_norm", {"x": [[1, 2]], "training": True}, "a batch's own statistics need two values a channel"),
        (
            "batch_norm",
            {"x": [[1, 2]], "running_mean": [0, 0], "running_var": [1, -1]},
            "running_var has -1.0 in it, a variance is finite and at least 0",
        ),
    ],
)
def test_a_wrong_body_is_a_400_that_names_the_field_its_value_and_what_is_allowed(
    address: str, name: str, body: Any, words: str
) -> None:
    answer = post(address, name, body)
    assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text


def test_a_body_above_the_cap_is_a_413(serve: Any) -> None:
    with serve(max_body_bytes=1000) as address:
        assert post(address, "layer_norm", {"x": [1.0] * 500}).status_code == 413
        assert post(address, "layer_norm", {"x": [1.0] * 50}).status_code == 200


ASK = """
import http.client, select, sys, time
connection, found = http.client.HTTPConnection(sys.argv[1]), []
connection.connect()
print("begun", flush=True)
last = time.perf_counter()
while not select.select([sys.stdin], [], [], 0)[0]:
    connection.request("GET", "/v2/health/live")
    connection.getresponse().read()
    now = time.perf_counter()
    found.append(now - last)
    last = now
print(*found)
"""


@contextmanager
def gaps(address: str) -> Iterator[list[float]]:
    """Seconds between answers of the health check, asked for again and again meanwhile.

    By a process of its own: in this one the garbage collector alone stops everything for a tenth of a second.
    """
    found = list[float]()
    command = [sys.executable, "-c", ASK, address.removeprefix("http://")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout
        assert asking.stdout.readline() == "begun\n"
        yield found
        said, _ = asking.communicate("stop")
    found += map(float, said.split())


def binary(x: np.ndarray) -> tuple[bytes, dict[str, str]]:
    size = {"binary_data_size": x.nbytes}
    tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "parameters": size}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return header + x.tobytes(), {HEADER_LENGTH: str(len(header))}


def as_json(x: np.ndarray) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode(), {}


def as_body(x: np.ndarray) -> tuple[bytes, dict[str, str]]:
    return json.dumps({"x": x.tolist()}).encode(), {}


def work(body: bytes, x: np.ndarray) -> float:
    """Seconds of what the server has to do at the least; done on its loop, nobody else would get a turn for as long."""
    started = perf_counter()
    if body.endswith(b"}"):
        json.loads(body)
    OPERATOR.run(OPERATIONS["layer_norm"].task({"x": x}, {}))
    return perf_counter() - started


@pytest.mark.parametrize(
    ("path", "sent", "rows"),
    [
        ("/v2/models/layer_norm/infer", binary, 190_000),
        ("/v2/models/layer_norm/infer", as_json, 40_000),
        ("/v1/ops/layer_norm", as_body, 40_000),
    ],
)
def test_a_body_of_many_megabytes_keeps_nobody_waiting(
    process_address: str,
    tmp_path: Path,
    path: str,
    sent: Callable[[np.ndarray], tuple[bytes, dict[str, str]]],
    rows: int,
) -> None:
    x = np.random.default_rng(0).standard_normal((rows, 64)).astype("f4")
    body, headers = sent(x)
    (tmp_path / "body").write_bytes(body)
    header = [flag for name, value in headers.items() for flag in ("-H", f"{name}: {value}")]
    # Another process sends it: in this one its work would keep the health check itself from asking.
    command = ["curl", "-sSf", "-o", tmp_path / "answer", "--data-binary", f"@{tmp_path / 'body'}", *header]
    with gaps(process_address) as found:
        subprocess.run([*command, process_address + path], check=True, timeout=60)
    assert (tmp_path / "answer").stat().st_size > x.nbytes
    least = work(body, x)
    print(f"{path}: {len(body) / 2**20:.0f} MiB, health check waited {max(found):.3f} s, work of {least:.3f} s")
    assert max(found) < least / 2, f"the health check waited {max(found):.3f} s, the work alone takes {least:.3f} s"
