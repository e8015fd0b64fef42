"""What SECURITY.md promises beyond key, ids and CORS, over the socket."""

import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from service.openapi import DIGIT

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "artifacts"
GOOD = "ln-mlp-digits"
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]}
Process = Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]


@pytest.fixture(scope="module")
def beside(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of one good model, with another good one beside its repository, and a model that fails to load."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(ARTIFACTS / GOOD, folder / "models" / GOOD)
    shutil.copytree(ARTIFACTS / "bn-mlp-digits", folder / "bn-mlp-digits")
    shutil.copytree(ARTIFACTS / "ln-cnn-digits", folder / "models" / "ln-cnn-digits")
    manifest = folder / "models" / "ln-cnn-digits" / "1" / "manifest.json"
    document = json.loads(manifest.read_text())
    document["probe"]["shapes"] = [[2, 3, 8, 8]]  # which onnxruntime refuses, in words of its own
    manifest.write_text(json.dumps(document))
    with serve(model_repository=folder / "models") as address:
        yield address


def raw(address: str, request: bytes) -> tuple[int, bytes]:
    """Status and whole answer to a request that no client would send."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(request)
        answer = connection.makefile("rb").read()
    return int(answer.split()[1]), answer


NAMES = [
    b"..",
    b"../bn-mlp-digits",
    b"..%2fbn-mlp-digits",
    b"..%2Fbn-mlp-digits",
    b"%2e%2e%2fbn-mlp-digits",
    b"%252e%252e%252fbn-mlp-digits",
    b"..%5cbn-mlp-digits",
    b"..\\bn-mlp-digits",
    b"ln-mlp-digits%2f..%2f..%2fbn-mlp-digits",
    b"ln-mlp-digits/../../bn-mlp-digits",
    b"%2fetc",
    b"ln-mlp-digits%00",
    b"ln-mlp-digits.",
    b"LN-MLP-DIGITS",
    b"%c0%ae%c0%ae%c0%afbn-mlp-digits",
    b"ln-mlp-digits%2f1",
    b"*",
    b"~",
    b"%24%7bjndi:ldap:%7d",
    b"a" * 5000,
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: str(name[:40]))
def test_a_name_is_looked_up_and_leads_to_no_folder(beside: str, name: bytes) -> None:
    text = json.dumps(BODY).encode()
    for method, path, body in (
        (b"POST", b"/v2/models/%b/infer", text),
        (b"POST", b"/v2/models/%b/versions/1/infer", text),
        (b"POST", b"/v2/models/ln-mlp-digits/versions/%b/infer", text),
        (b"GET", b"/v2/models/%b", b""),
        (b"GET", b"/v2/models/%b/config", b""),
        (b"GET", b"/v1/models/%b/certificate", b""),
        (b"GET", b"/static-offline-docs/%b", b""),
        (b"POST", b"/v1/ops/%b", text),
    ):
        head = b"%b %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        status, answer = raw(beside, head % (method, path % name, len(body)) + body)
        assert status in (404, 405), answer  # 405: the dots and slashes made it another path of ours
        error = json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]
        assert len(error) < 500
        assert gettempdir() not in error


@pytest.mark.parametrize(
    "path",
    [
        "/static-offline-docs/..%2f..%2f..%2fservice%2fsettings.py",
        "/static-offline-docs/%2e%2e/%2e%2e/core.py",
        "/static-offline-docs/..%2fcore.py",
        "/static-offline-docs/%2fetc%2fpasswd",
        "/static-offline-docs/",
        "/static-offline-docs",
    ],
)
def test_of_the_pages_folder_nothing_else_is_given_away(address: str, path: str) -> None:
    status, answer = raw(address, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert (status, b'{"error"' in answer) == (404, True)
    assert b"root:" not in answer
    assert b"import" not in answer


def test_no_answer_tells_of_the_inside(beside: str) -> None:
    """Neither of a good model nor of one that onnxruntime refused, nor of a request that no route takes."""
    document = httpx.get(f"{beside}/openapi.json").json()
    inside = [str(ROOT), gettempdir(), str(Path.home()), "site-packages", "Traceback", ".py", "onnxruntime.capi"]
    asked = [("GET", "/nothing"), ("PATCH", "/v2"), ("GET", "/docs"), ("GET", "/metrics")]
    asked += [(method.upper(), path) for path, operations in document["paths"].items() for method in operations]
    statuses = set()
    for model in (GOOD, "ln-cnn-digits", "nobody"):
        for method, path in asked:
            filled = path.replace("{name}", model).replace("{version}", "1")
            for content in (b"", b"{", json.dumps(BODY).encode(), b'{"inputs": [{}]}', b"\xff" * 100):
                answer = httpx.request(method, beside + filled, content=content if method == "POST" else None)
                statuses.add(answer.status_code)
                for each in inside:
                    assert each not in answer.text, (method, filled)
                if method != "POST":
                    break
    assert statuses == {200, 400, 403, 404, 405, 503}
    index = {entry["name"]: entry for entry in httpx.post(f"{beside}/v2/repository/index").json()}
    assert index["ln-cnn-digits"]["reason"] == "it failed while it was loaded; the server's log says why"


HOOK = """
import os, sys

def look(event, arguments):
    if event == "pickle.find_class":
        os.write(2, f"AUDIT {event} {arguments}\\n".encode())

sys.addaudithook(look)
os.write(2, b"AUDIT is on\\n")
"""


def test_a_running_service_unpickles_nothing(process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a library of it: Python tells of each class that pickle looks up."""
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with process() as (running, address):
        assert httpx.post(f"{address}/v2/models/{GOOD}/infer", json=BODY).status_code == 200
        assert httpx.get(f"{address}/openapi.json").status_code == 200
        assert httpx.get(f"{address}/metrics").status_code == 200
        running.terminate()
        running.wait(30)
        assert running.stderr
        log = running.stderr.read()
    assert "AUDIT is on" in log
    assert "AUDIT pickle" not in log


def test_nobody_loads_or_unloads_a_model_by_default(beside: str) -> None:
    for action in ("load", "unload"):
        answer = httpx.post(f"{beside}/v2/repository/models/{GOOD}/{action}", json={})
        assert answer.status_code == 403
        assert list(answer.json()) == ["error"]
    assert httpx.post(f"{beside}/v2/models/{GOOD}/infer", json=BODY).status_code == 200
