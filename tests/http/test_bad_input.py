"""Malformed requests over a real socket: each has its status and its words, none a 5xx, a traceback or a path."""

import gzip
import http.client
import json
import re
import socket
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import pytest

from service.protocol import HEADER_LENGTH

INFER = "/v2/models/ln-mlp-digits/infer"
ROW = [0.5] * 64
FLOATS = struct.pack("<64f", *ROW)


def tensor(**changes: Any) -> dict[str, Any]:
    """A good input with ``changes``; a change to None leaves the field out."""
    good = {"name": "x", "datatype": "FP32", "shape": [1, 64], "data": ROW}
    return {key: value for key, value in (good | changes).items() if value is not None}


def request(*inputs: Any, **fields: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **fields}).encode()


def binary(size: Any = 256, **changes: Any) -> dict[str, Any]:
    return tensor(data=None, parameters={"binary_data_size": size}, **changes)


class Case(NamedTuple):
    name: str
    body: bytes
    words: str  # a regular expression the error matches
    status: int = 400
    headers: Mapping[str, str] = MappingProxyType({})
    path: str = INFER
    method: str = "POST"


def framed(name: str, header: bytes, tail: bytes, words: str, length: str | None = None) -> Case:
    """A body of JSON and binary tensors, with its header length or a wrong one."""
    return Case(name, header + tail, words, headers={HEADER_LENGTH: length or str(len(header))})


CASES = [
    # JSON as a whole
    Case("empty body", b"", "the body is not JSON"),
    Case("not json", b"hello", "the body is not JSON: .*needs the header Inference-Header-Content-Length"),
    Case("truncated json", request(tensor())[:-10], "the body is not JSON: unexpected end of data"),
    Case("two documents", request(tensor()) * 2, "the body is not JSON"),
    Case("not utf-8", b'{"inputs": "\xff"}', "the body is not JSON"),
    Case("lone surrogate", b'{"id": "\\ud800", "inputs": []}', "the body is not JSON"),
    Case("deep nesting", b"[" * 100_000, "the body is not JSON"),
    *(
        Case(
            f"id nested {depth} deep",
            b'{"inputs": [], "id": ' + b"[" * depth + b"]" * depth + b"}",
            "id of the request",
        )
        for depth in (900, 990, 1000, 1015)
    ),
    *(
        Case(f"input nested {depth} deep", b'{"inputs": [' + b"[" * depth + b"]" * depth + b"]}", r"inputs\[0\] is \[")
        for depth in (900, 990, 1000, 1015)
    ),
    Case("an id of many numbers", b'{"inputs": [], "id": [' + b"0," * 10**5 + b"0]}", "id of the request is .0, 0"),
    Case("a list", b"[1, 2]", r"the body is \[1, 2\], it must be a JSON object"),
    Case("a number", b"7", "the body is 7, it must be a JSON object"),
    Case("null", b"null", "the body is null, it must be a JSON object"),
    Case("binary without its header", request(binary()) + FLOATS, f"needs the header {HEADER_LENGTH}"),
    # fields
    Case("no inputs", b"{}", "inputs: missing, it must be a JSON list"),
    Case("inputs empty", request(), r"the inputs are \[\], model ln-mlp-digits takes \['x'\]"),
    Case("inputs an object", b'{"inputs": {"x": [1]}}', "inputs: .*it must be a JSON list"),
    Case("input not an object", request(3), r"inputs\[0\] is 3, it must be a JSON object"),
    Case("no name", request(tensor(name=None)), r"inputs\[0\] has no name, it must be a string"),
    Case("name a number", request(tensor(name=3)), r"name of inputs\[0\] is 3, it must be a string"),
    Case("wrong name", request(tensor(name="image")), r"the inputs are \['image'\], .* takes \['x'\]"),
    Case("name twice", request(tensor(), tensor()), r"the inputs are \['x', 'x'\], .* takes \['x'\], each once"),
    Case("long name", request(tensor(name="y" * 10_000)), r"the inputs are \['y+\.\.\.y+'\], model"),
    Case("path as name", request(tensor(name="../../x")), r"the inputs are .*takes \['x'\]"),
    Case("id a number", request(tensor(), id=7), "id of the request is 7, it must be a string"),
    Case("parameters a list", request(tensor(), parameters=[]), r"parameters of the request is \[\]"),
    Case(
        "nested parameter", request(tensor(), parameters={"a": [1]}), "'a' of the request is .* a number or a boolean"
    ),
    Case("nonfinite zero", request(tensor(), parameters={"nonfinite": "zero"}), "nonfinite is 'zero', .* 'null'"),
    Case(
        "binary_data_output text",
        request(tensor(), parameters={"binary_data_output": "yes"}),
        "binary_data_output of the request is 'yes', it must be true or false",
    ),
    # datatypes
    Case("no datatype", request(tensor(datatype=None)), "input 'x' has no datatype"),
    Case("unknown datatype", request(tensor(datatype="FLOAT")), "has datatype 'FLOAT', .* takes FP32"),
    Case("other datatype", request(tensor(datatype="INT64")), "has datatype 'INT64', .* takes FP32"),
    Case("bytes", request(tensor(datatype="BYTES", data=["a"] * 64)), "has datatype 'BYTES', .* takes FP32"),
    # shapes
    Case("no shape", request(tensor(shape=None)), "the shape of input 'x': missing"),
    Case("shape a number", request(tensor(shape=64)), "the shape of input 'x': 64, it must be a JSON list"),
    Case("shape of text", request(tensor(shape=["1", "64"])), "shape of input 'x' has '1' in it"),
    Case("shape of floats", request(tensor(shape=[1.0, 64.0])), "shape of input 'x' has 1.0 in it"),
    Case("shape of booleans", request(tensor(shape=[True, 64])), "shape of input 'x' has true in it"),
    Case("negative size", request(tensor(shape=[-1, 64])), "shape of input 'x' has -1 in it"),
    Case("rank 1", request(tensor(shape=[64])), r"has shape \[64\], .* takes \[-1, 64\]"),
    Case("rank 3", request(tensor(shape=[1, 8, 8])), r"has shape \[1, 8, 8\], .* takes \[-1, 64\]"),
    Case("rank 1000", request(tensor(shape=[1] * 1000)), "the shape of input 'x': 1000 entries, .* at most 32"),
    Case("a thousand inputs", request(*[tensor(data=[])] * 1000), "inputs: 1000 entries, there may be at most 256"),
    Case("a thousand outputs", request(tensor(), outputs=[{"name": "logits"}] * 1000), "outputs: 1000 entries"),
    Case("no rows", request(tensor(shape=[0, 64], data=[])), r"has shape \[0, 64\], .*any size from 1"),
    Case("wrong width", request(tensor(shape=[1, 63], data=ROW[1:])), r"has shape \[1, 63\]"),
    Case("overflowing product", request(tensor(shape=[2**62, 64])), "has 4611686018427387904 rows", status=413),
    Case("too many rows", request(tensor(shape=[257, 64])), "257 rows, .* at most 256", status=413),
    # JSON data
    Case("no data", request(tensor(data=None)), "the data of input 'x': missing"),
    Case("data an object", request(tensor(data={"0": 1})), "the data of input 'x': .* a JSON list"),
    Case("data empty", request(tensor(data=[])), r"has 0 values, its shape \[1, 64\] makes 64"),
    Case("too few values", request(tensor(data=ROW[1:])), r"has 63 values, its shape \[1, 64\] makes 64"),
    Case("too many values", request(tensor(data=[*ROW, 1])), r"has 65 values, its shape \[1, 64\] makes 64"),
    Case("ragged", request(tensor(shape=[2, 64], data=[ROW, ROW[1:]])), "input x is ragged"),
    Case("list among numbers", request(tensor(shape=[2, 64], data=[ROW, *ROW])), "shape .* begins with 2"),
    Case("number among lists", request(tensor(shape=[2, 64], data=[ROW, 1])), "input x is ragged"),
    Case("nested too deep", request(tensor(data=[[[v] for v in ROW]])), r"has \[0.5\] at position 0, .* a number"),
    Case("outer size", request(tensor(data=[ROW, ROW])), r"has 2 lists in it, its shape \[1, 64\] begins with 1"),
    Case("text value", request(tensor(data=["a", *ROW[1:]])), "has 'a' at position 0, it must be a number"),
    Case("boolean value", request(tensor(data=[*ROW[1:], True])), "has true at position 63, it must be a number"),
    Case("null value", request(tensor(data=[None, *ROW[1:]])), "has null at position 0, it must be a number"),
    Case("too large for FP32", request(tensor(data=[1e39, *ROW[1:]])), r"has 1e\+39 at position 0, too large"),
    Case("too large for JSON", request(tensor()).replace(b"0.5", b"1e999", 1), "the body is not JSON.*infinity"),
    Case(
        "NaN token",
        request(tensor(data=[float("nan"), *ROW[1:]])),
        "NaN and Infinity are no JSON numbers: send them as binary",
    ),
    Case(
        "Infinity token",
        request(tensor(data=[float("inf"), *ROW[1:]])),
        "NaN and Infinity are no JSON numbers: send them as binary",
    ),
    Case(
        "-Infinity token",
        request(tensor(data=[float("-inf"), *ROW[1:]])),
        "NaN and Infinity are no JSON numbers: send them as binary",
    ),
    # binary tensors
    framed("header length negative", request(binary()), FLOATS, "is '-1', it must be an integer from 0", "-1"),
    framed("header length not a number", request(binary()), FLOATS, "is 'ten', it must be an integer from 0", "ten"),
    framed("header length a float", request(binary()), FLOATS, "is '1e2', it must be an integer from 0", "1e2"),
    framed("header length beyond body", request(binary()), FLOATS, "is '9999', .* the body's bytes", "9999"),
    framed("header length huge", request(binary()), FLOATS, "it must be an integer from 0 to", "9" * 5000),
    framed("header length too short", request(binary()), FLOATS, "the body is not JSON.*may be wrong", "5"),
    framed("truncated tensor", request(binary()), FLOATS[:-1], "is 256, but 255 bytes of binary data are there"),
    framed("trailing bytes", request(binary()), FLOATS + b"\0", "257 bytes follow the JSON, .* add up to 256"),
    framed("size too small", request(binary(252)), FLOATS[:252], "has 252 bytes of binary data, .* make 256"),
    framed("size of another datatype", request(binary(512)), FLOATS * 2, "has 512 bytes .* make 256"),
    framed("size negative", request(binary(-256)), FLOATS, "binary_data_size of input 'x' is -256"),
    framed("size text", request(binary("256")), FLOATS, "binary_data_size of input 'x' is '256', .* an integer"),
    framed("size beyond int64", request(binary(2**63)), FLOATS, "but 256 bytes of binary data are there"),
    framed(
        "data and size",
        request(tensor(parameters={"binary_data_size": 256})),
        FLOATS,
        "has both data and binary_data_size",
    ),
    framed("size without bytes", request(binary()), b"", "is 256, but 0 bytes of binary data are there"),
    Case("raw, too short", FLOATS[:-4], "has 252 bytes .* make 256", headers={HEADER_LENGTH: "0"}),
    Case("raw, two rows", FLOATS * 2, "has 512 bytes .* make 256", headers={HEADER_LENGTH: "0"}),
    Case("raw, empty", b"", "has 0 bytes .* make 256", headers={HEADER_LENGTH: "0"}),
    # outputs
    Case("unknown output", request(tensor(), outputs=[{"name": "y"}]), r"asked for are \['y'\], .* has \['logits'\]"),
    Case("output twice", request(tensor(), outputs=[{"name": "logits"}] * 2), r"has \['logits'\], each once"),
    Case("outputs text", request(tensor(), outputs="logits"), "outputs: 'logits', it must be a JSON list"),
    Case("output text", request(tensor(), outputs=["logits"]), r"outputs\[0\] is 'logits', it must be a JSON object"),
    Case(
        "classification",
        request(tensor(), outputs=[{"name": "logits", "parameters": {"classification": 3}}]),
        "asks for classification, which this server does not offer",
    ),
    Case(
        "shared memory",
        request(tensor(), outputs=[{"name": "logits", "parameters": {"shared_memory_region": "r"}}]),
        "asks for shared_memory_region, which this server does not offer",
    ),
    Case("a sequence", request(tensor(), parameters={"sequence_id": 1}), "asks for sequence_id, which this server"),
    # encodings
    Case("brotli", b"x", "Content-Encoding is 'br', .* gzip or deflate", 415, {"Content-Encoding": "br"}),
    Case("two encodings", b"x", "is 'gzip, gzip', it must be", 415, {"Content-Encoding": "gzip, gzip"}),
    Case("not gzip", b"hello", "not valid gzip data", 400, {"Content-Encoding": "gzip"}),
    Case("truncated gzip", gzip.compress(b"{}" * 99)[:-4], "not one whole gzip", 400, {"Content-Encoding": "gzip"}),
    Case("after gzip", gzip.compress(b"{}") + b"x", "not one whole gzip stream", 400, {"Content-Encoding": "gzip"}),
    Case("gzip bomb", gzip.compress(bytes(2**27)), "larger than 67108864 bytes", 413, {"Content-Encoding": "gzip"}),
    # names and paths
    Case("unknown model", request(tensor()), "no model 'nobody'; the models are", 404, path="/v2/models/nobody/infer"),
    Case(
        "no such version",
        request(tensor()),
        "has no version '2'",
        404,
        path="/v2/models/ln-mlp-digits/versions/2/infer",
    ),
    Case("version text", request(tensor()), "no version 'v1'", 404, path="/v2/models/ln-mlp-digits/versions/v1/infer"),
    Case("traversal", b"", "nothing at this path", 404, path="/v2/models/../../etc/passwd/infer"),
    Case("encoded traversal", b"", "nothing at this path", 404, path="/v2/models/..%2f..%2fetc%2fpasswd/infer"),
    Case("dots", b"", "no model by that name", 404, path="/v2/models/../infer"),
    Case("encoded dots", b"", "no model by that name", 404, path="/v2/models/%2e%2e/infer"),
    Case("null byte", b"", "no model by that name", 404, path="/v2/models/ln-mlp-digits%00/infer"),
    Case("very long name", b"", "no model by that name", 404, path=f"/v2/models/{'a' * 4000}/infer"),
    Case("traversal version", b"", "nothing at this", 404, path="/v2/models/ln-mlp-digits/versions/..%2f1/infer"),
    Case("wrong method", b"", "GET is not allowed here, it must be POST", 405, method="GET"),
    Case("unknown path", b"", "nothing at this path; /docs", 404, path="/v3/models"),
    Case("index not json", b"ready", "the body is not JSON", path="/v2/repository/index"),
    Case("index not an object", b"[1]", r"the body is \[1\], it must be a JSON object", path="/v2/repository/index"),
    Case("index ready as text", b'{"ready": "false"}', "ready of the body is 'false'", path="/v2/repository/index"),
]


def send(address: str, case: Case) -> tuple[int, dict[str, str], bytes]:
    """As it stands, by a client that neither corrects nor forbids anything."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    try:
        connection.request(case.method, case.path, case.body, dict(case.headers))
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def test_there_are_at_least_forty_cases_and_no_two_are_named_alike() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_refused_in_words(address: str, case: Case) -> None:
    status, headers, body = send(address, case)
    assert headers["content-type"] == "application/json"
    document = json.loads(body)
    assert list(document) == ["error"]
    error = document["error"]
    assert (status, bool(re.search(case.words, error))) == (case.status, True), (status, error)
    assert len(error) < 400
    assert "Traceback" not in error
    assert not re.search(r"/(etc|root|home|usr|work|tmp|site-packages)\b|\.py\b|0x[0-9a-f]{6}", error)


def test_the_server_answers_rightly_after_all_of_them(address: str) -> None:
    for case in CASES:
        send(address, case)
    answer = httpx.post(address + INFER, content=request(tensor(data=ROW)))
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["shape"] == [1, 10]


def test_a_body_above_the_limit_is_refused_before_it_is_read(serve: Any) -> None:
    with serve(max_body_bytes=1000) as address:
        declared = send(address, Case("declared", bytes(1001), ""))
        fits = httpx.post(address + INFER, content=request(tensor())).status_code

        def chunks() -> Any:
            for _ in range(11):
                yield bytes(100)

        chunked = httpx.post(address + INFER, content=chunks())
        index = httpx.post(f"{address}/v2/repository/index", content=bytes(1001))
    assert declared[0] == chunked.status_code == index.status_code == 413
    assert (
        json.loads(declared[2])
        == chunked.json()
        == {"error": "the body is larger than 1000 bytes, the most this server takes (its setting MAX_BODY_BYTES)"}
    )
    assert fits == 200


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"hello\r\n\r\n", "Invalid method encountered"),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "Invalid character in Content-Length"),
        (b"GET /v2 HTTP/1.1\r\nbad header\r\n\r\n", "Invalid header token"),
    ],
)
def test_what_is_not_http_is_refused_in_json_too(
    address: str, garbage: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(garbage)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json")
    assert json.loads(body) == {"error": f"Invalid HTTP request received. {reason}. It must be HTTP/1.1."}
    assert reason in caplog.text
