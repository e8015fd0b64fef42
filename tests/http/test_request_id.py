"""``X-Request-ID``: in every answer, and in what is logged of the request."""

import hashlib
import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from service.openapi import DIGIT
from service.whole_response import CHUNK_BYTES

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
Process = Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]

DIGITS = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]}
ROWS = CHUNK_BYTES // 64
MANY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [ROWS, 64], "data": [0.5] * 64 * ROWS}]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v2/models/ln-mlp-digits/infer", DIGITS, 200),
        ("POST", "/v2/models/layer_norm/infer", MANY, 200),
        ("POST", "/v1/ops/layer_norm", {"x": [1, 2]}, 200),
        ("POST", "/v2/models/ln-mlp-digits/infer", {}, 400),
        ("POST", "/v2/models/nobody/infer", DIGITS, 404),
        ("GET", "/v2/models/ln-mlp-digits/infer", None, 405),
        ("GET", "/v2/models", None, 200),
        ("GET", "/v2/health/live", None, 200),
        ("HEAD", "/docs", None, 200),
        ("PUT", "/docs", None, 405),
        ("GET", "/docs", None, 200),
        ("GET", "/", None, 200),
        ("GET", "/web/main.js", None, 200),
        ("GET", "/web/nothing.js", None, 404),
        ("GET", "/nothing", None, 404),
        ("GET", "/static-offline-docs/swagger-ui.css", None, 200),
        ("GET", "/static-offline-docs/nothing", None, 404),
    ],
    ids=lambda value: str(value)[:40],
)
def test_every_answer_has_the_clients_id_or_a_new_one(
    address: str, method: str, path: str, body: Any, status: int
) -> None:
    with httpx.Client(base_url=address) as client:
        mine = client.request(method, path, json=body, headers={"X-Request-ID": "trace:7"})
        assert (mine.status_code, mine.headers["x-request-id"]) == (status, "trace:7")
        new = [client.request(method, path, json=body).headers["x-request-id"] for _ in range(2)]
        insane = client.request(method, path, json=body, headers={"X-Request-ID": "not sane"})
    assert len({*new, insane.headers["x-request-id"], "not sane"}) == 4
    assert mine.headers.get_list("x-request-id") == ["trace:7"]
    assert mine.headers["x-content-type-options"] == "nosniff"


def test_what_is_not_http_gets_a_new_one_as_well(address: str) -> None:
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        head = connection.makefile("rb").read()
    assert head.startswith(b"HTTP/1.1 400")
    assert b"\r\nx-request-id: " in head


def test_pipelined_requests_keep_theirs(address: str) -> None:
    parts = urlsplit(address)
    ids = [f"request-{number}" for number in range(20)]
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        paths = ["/v2/models/ln-mlp-digits", "/nothing", "/v2/health/live", "/v2/models/ln-mlp-digits/config"]
        for number, request_id in enumerate(ids):
            end = "Connection: close\r\n" if request_id == ids[-1] else ""
            head = f"GET {paths[number % 4]} HTTP/1.1\r\nHost: x\r\nX-Request-ID: {request_id}\r\n{end}\r\n"
            connection.sendall(head.encode())
        answers = connection.makefile("rb").read()
    found = [line.split(b": ")[1].decode() for line in answers.split(b"\r\n") if line.startswith(b"x-request-id: ")]
    assert found == ids


def short_of_texts(folder: Path) -> None:
    """Make the model fail on texts of 64 characters and more, past every check of ours."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["checked_ids" if name == "ids" else name for name in node.input]
    for name, value in (("axis_of_time", np.array(1)), ("zeros", np.zeros(64, "i8"))):
        graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    nodes = [
        onnx.helper.make_node("Shape", ["ids"], ["sizes_of_ids"]),
        onnx.helper.make_node("Gather", ["sizes_of_ids", "axis_of_time"], ["length_of_ids"]),
        onnx.helper.make_node("Gather", ["zeros", "length_of_ids"], ["zero"]),
        onnx.helper.make_node("Add", ["ids", "zero"], ["checked_ids"]),
    ]
    for node in reversed(nodes):
        graph.node.insert(0, node)
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"]["model.onnx"] = hashlib.sha256(content).hexdigest()
    file.write_text(json.dumps(manifest))


def test_a_log_of_json_has_the_id_of_the_request_that_failed(process: Process, tmp_path: Path) -> None:
    model = tmp_path / "models" / "ln-gru-charlm"
    shutil.copytree(ARTIFACTS / "ln-gru-charlm", model)
    short_of_texts(model / "1")
    body = {"inputs": [{"name": "ids", "datatype": "INT64", "shape": [1, 64], "data": [1] * 64}]}
    with process("--model-repository", str(tmp_path / "models"), "--log-format", "json") as (running, address):
        url = f"{address}/v2/models/ln-gru-charlm/infer"
        answer = httpx.post(url, json=body, headers={"X-Request-ID": "mine-7"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (500, "mine-7")
        for inside in ("Traceback", "onnxruntime", str(tmp_path), "Gather"):
            assert inside not in answer.text
        running.terminate()
        running.wait(30)
        assert running.stderr
        lines = [json.loads(line) for line in running.stderr]
    assert [line["message"] for line in lines if line["request_id"] == "mine-7"] == [
        f"answered 500: {answer.json()['error']}"
    ]
    (failed,) = [line for line in lines if line["traceback"]]
    assert "Traceback (most recent call last)" in failed["traceback"]
    assert "uvicorn.error" in {line["logger"] for line in lines}
    assert {line["request_id"] for line in lines} == {None, "mine-7"}
