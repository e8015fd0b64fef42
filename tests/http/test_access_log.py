"""The log of requests, of a process of its own."""

import json
import re
import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from service.openapi import DIGIT
from tests.waiting import ended

ROOT = Path(__file__).parents[2]
Process = Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]
DIGITS = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]}
INFER = "/v2/models/ln-mlp-digits/infer"
ON = ("--access-log", "true", "--drain-seconds", "0")


def test_by_default_there_is_none(process: Process) -> None:
    with process("--drain-seconds", "0") as (running, address):
        assert httpx.post(address + INFER, json=DIGITS).status_code == 200
        assert "POST" not in "".join(ended(running))


def test_each_request_has_a_line_of_json_with_what_the_server_knows_of_it(process: Process) -> None:
    asked: list[tuple[str, str, Any]] = [
        ("POST", INFER, DIGITS),
        ("POST", "/v1/ops/layer_norm", {"x": [1, 2]}),
        ("POST", "/v2/models/layer_norm/infer", {}),
        ("POST", "/v2/models/nobody/infer", DIGITS),
        ("GET", "/v2/models", None),
    ]
    with process(*ON, "--log-format", "json") as (running, address):
        with httpx.Client(base_url=address) as client:
            answers = [
                client.request(method, path, json=body, headers={"X-Request-ID": f"mine-{number}"})
                for number, (method, path, body) in enumerate(asked)
            ]
        lines = {line["request_id"]: line for line in map(json.loads, ended(running)) if "method" in line}
    for number, ((method, path, _), answer) in enumerate(zip(asked, answers, strict=True)):
        line = lines[f"mine-{number}"]
        assert (line["method"], line["path"], line["status"]) == (method, path, answer.status_code)
        assert line["bytes_in"] in (0, len(answer.request.content))
        assert line["bytes_out"] == len(answer.content)
        assert 0 < line["seconds"] < 60
    model, op, refused, unknown, other = (lines[f"mine-{number}"] for number in range(5))
    for line in (model, op):
        assert line["batch_rows"] == 1
        assert 0 <= line["queue_seconds"] + line["compute_seconds"] <= line["seconds"]
    assert model["bytes_in"] == len(answers[0].request.content)
    assert [line["model"] for line in (model, op, refused, unknown, other)] == [
        "ln-mlp-digits",
        "layer_norm",
        "layer_norm",
        None,
        None,
    ]
    assert {line["compute_seconds"] for line in (refused, unknown, other)} == {None}
    assert {line["logger"] for line in lines.values()} == {"service.access_log"}


def test_a_line_has_no_body_no_query_no_header_and_is_one_line(process: Process) -> None:
    with process(*ON) as (running, address):
        parts = urlsplit(address)
        with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
            path = b"/nothing%0A%22'here\"\\" + b"x" * 1000
            connection.sendall(
                b"POST "
                + path
                + b"?key=s3cret HTTP/1.1\r\nHost: s3cret\r\nUser-Agent: s3cret\r\nX-Request-ID: mine\r\n"
                b"Authorization: Bearer s3cret\r\nContent-Length: 6\r\nConnection: close\r\n\r\ns3cret"
            )
            assert connection.makefile("rb").readline() == b"HTTP/1.1 404 Not Found\r\n"
        log = ended(running)
    assert "s3cret" not in "".join(log)
    (line,) = [line for line in log if "/nothing" in line]
    assert re.search(r" INFO mine POST /nothing%0A%22'here%22%5Cx+ 404 bytes_in=0 bytes_out=\d+ seconds=\S+\n$", line)
    assert len(line) < 400


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nobody_waits_for_a_log_that_nobody_reads(process: Process, log_format: str) -> None:
    with process(*ON, "--log-format", log_format) as (_, address), httpx.Client(base_url=address, timeout=20) as client:
        for _ in range(1000):  # more lines than the 64 KiB of the pipe hold
            assert client.get("/v2/health/live").status_code == 200


def test_a_line_of_each_worker_comes_whole(process: Process) -> None:
    with process(*ON, "--log-format", "json", "--workers", "2") as (running, address):
        for _ in range(20):
            httpx.post(address + INFER, json=DIGITS)
        lines = [json.loads(line) for line in ended(running)]
    assert sum(line.get("path") == INFER for line in lines) == 20
