"""A server with an API key, over its socket."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from service.home import web_files
from service.openapi import DIGIT

ROOT = Path(__file__).parents[2]
KEY = "s3cret-of-the-test"
RIGHT = {"Authorization": f"Bearer {KEY}"}
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]}
INFER = "/v2/models/ln-mlp-digits/infer"
Process = Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]


@pytest.fixture(scope="module")
def locked(serve: Any) -> Iterator[str]:
    with serve(api_key=KEY) as address:
        yield address


def every_request(address: str, headers: dict[str, str]) -> Iterator[tuple[str, str, httpx.Response]]:
    """One of each operation of the OpenAPI document, of the pages and of paths that are none."""
    document = httpx.get(f"{address}/openapi.json", headers=RIGHT).json()
    asked = [(method.upper(), path) for path, operations in document["paths"].items() for method in operations]
    pages = ("/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css", "/redoc", "/nothing", "/v2/")
    asked += [("GET", page) for page in pages] + [("OPTIONS", INFER), ("PUT", INFER), ("GET", "/v2/health/nothing")]
    with httpx.Client(base_url=address, headers=headers) as client:
        for method, path in asked:
            filled = path.replace("{name}", "ln-mlp-digits").replace("{version}", "1")
            yield method, path, client.request(method, filled, json=BODY if method == "POST" else None)


def test_the_page_that_takes_a_key_needs_none_itself(locked: str) -> None:
    """Its files are those of the repository, whatever is served and to whom."""
    for file in web_files():
        answer = httpx.get(locked + file.path)
        assert (answer.status_code, answer.content) == (200, file.content)
    for path in ("/web", "/web/", "/web/nothing.js", "/index.html", "//", "/web/../metrics"):
        with httpx.Client() as client:
            request = client.build_request("GET", locked)
            request.url = request.url.copy_with(raw_path=path.encode())
            assert client.send(request).status_code == 401, path


def test_without_the_key_nothing_but_health_answers(locked: str) -> None:
    answers = list(every_request(locked, {}))
    assert len(answers) > 30
    for method, path, answer in answers:
        if path in ("/v2/health/live", "/v2/health/ready"):
            assert answer.status_code == 200, path
            continue
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), (method, path)
        assert list(answer.json()) == ["error"]
        assert answer.headers["x-request-id"]


def test_with_the_key_everything_does_and_no_answer_has_it(locked: str) -> None:
    for method, path, answer in every_request(locked, RIGHT):
        assert answer.status_code in (200, 307, 400, 403, 404, 405), (method, path, answer.text)
        assert KEY not in answer.text + str(answer.headers)


def test_with_a_wrong_key_an_answer_repeats_nothing_of_it(locked: str) -> None:
    for headers in ({"X-API-Key": "my-password"}, {"Authorization": "Bearer my-password"}):
        answer = httpx.post(locked + INFER, json=BODY, headers=headers)
        assert (answer.status_code, answer.json()) == (401, {"error": "the API key is wrong"})
        assert "my-password" not in str(answer.headers)


def test_a_client_of_the_protocol_shows_the_key_as_a_header(locked: str) -> None:
    client = triton.InferenceServerClient(urlsplit(locked).netloc)
    tensor = triton.InferInput("x", [1, 64], "FP32").set_data_from_numpy(np.array([DIGIT], "f4"))
    answer = client.infer("ln-mlp-digits", [tensor], headers={"X-API-Key": KEY})
    assert answer.as_numpy("logits").argmax() == 3
    with pytest.raises(triton.InferenceServerException, match="asks for an API key"):
        client.infer("ln-mlp-digits", [tensor])


@pytest.mark.parametrize("path", [INFER, "/v1/ops/layer_norm", "/v2/repository/index"])
def test_who_has_no_key_is_refused_before_a_byte_of_the_body(locked: str, path: str) -> None:
    """A body that is asked for would be by 100 Continue."""
    parts = urlsplit(locked)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(12) == b"HTTP/1.1 401"


def test_metrics_are_open_where_a_setting_says_so(serve: Any) -> None:
    with serve(api_key=KEY, metrics_without_key=True) as address:
        assert "normserve_model_ready" in httpx.get(f"{address}/metrics").text
        assert httpx.get(f"{address}/v2/models").status_code == 401
        document = httpx.get(f"{address}/openapi.json", headers=RIGHT).json()
        assert document["paths"]["/metrics"]["get"]["security"] == []


def test_the_openapi_names_the_schemes_where_there_is_a_key(locked: str, address: str) -> None:
    document = httpx.get(f"{locked}/openapi.json", headers=RIGHT).json()
    schemes = document["components"]["securitySchemes"]
    assert [set(each) <= set(schemes) for each in document["security"]] == [True, True]
    assert schemes["x_api_key"] == {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            is_open = path.startswith("/v2/health/")
            assert ("401" in operation["responses"], operation.get("security")) == (
                (False, []) if is_open else (True, None)
            )
    without = httpx.get(f"{address}/openapi.json").json()
    assert "securitySchemes" not in without["components"]
    assert "security" not in without


def test_the_key_stands_in_no_log(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMSERVE_API_KEY", KEY)
    with process() as (running, address):
        for headers in (
            RIGHT,
            {"X-API-Key": KEY},
            {"Authorization": f"Basic {KEY}"},
            {"X-Request-ID": f"not sane {KEY}"},
        ):
            httpx.post(address + INFER, json=BODY, headers=headers)
            httpx.post(f"{address}{INFER}?key={KEY}", content=b"{", headers=headers)
        parts = urlsplit(address)
        with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nX-API-Key {KEY}\r\n\r\n".encode())
            answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 400")
        assert KEY.encode() not in answer
        running.terminate()
        running.wait(30)
        assert running.stderr
        log = running.stderr.read()
    request_id = re.search(rb"x-request-id: (\S+)", answer)
    assert request_id
    assert f"{request_id[1].decode()} Invalid HTTP request" in log
    assert KEY not in log


@pytest.mark.parametrize("key", ["", "two words", "schlüssel"])
def test_a_key_that_cannot_be_sent_refuses_to_start(key: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "--port", "0"],
        cwd=ROOT,
        env=os.environ | {"NORMSERVE_API_KEY": key},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"--api-key \(NORMSERVE_API_KEY\): it must have at least one character.*\n", done.stderr)
    assert not key or key not in done.stderr


def test_each_of_several_workers_asks_for_it_and_logs_in_the_same_form(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORMSERVE_API_KEY", KEY)
    with process("--workers", "2", "--log-format", "json") as (running, address):
        for _ in range(20):  # connections of their own: of both workers
            assert httpx.get(f"{address}/v2/models").status_code == 401
            assert httpx.get(f"{address}/v2/models", headers=RIGHT).status_code == 200
        running.terminate()
        running.wait(30)
        assert running.stderr
        log = running.stderr.read()
    messages = [json.loads(line)["message"] for line in log.splitlines()]
    assert sum("models and 5 of 5 operations are ready" in message for message in messages) == 2
    assert KEY not in log
