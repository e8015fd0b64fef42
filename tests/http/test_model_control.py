"""Models are loaded, loaded anew and unloaded while the service serves, by the protocol's real client."""

import hashlib
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from service.ops import OPERATIONS
from tests.waiting import until

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
NAME, OTHER = "ln-mlp-digits", "bn-mlp-digits"
ROWS = np.random.default_rng(0).random((3, 64), dtype=np.float32)
CLIENTS = 8


def place(source: str, folder: Path, name: str = NAME) -> None:
    """Put a committed artifact where another is, or will be, under the name and version of its new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ARTIFACTS / source / "1", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.update(name=name, version=folder.name)
    manifest["certificate"].update(model_name=name, model_version=folder.name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def spoil(folder: Path) -> str:
    """One bit of the weights; the answer is what the service must say of it."""
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return f"version {folder.name}: model.safetensors has sha256 {hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in (NAME, OTHER):
        shutil.copytree(ARTIFACTS / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def address(serve: Any, models: Path) -> Iterator[str]:
    with serve(model_repository=models, model_control="explicit") as address:
        yield address


@contextmanager
def client_of(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address.removeprefix("http://")) as client:
        yield client


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with client_of(address) as client:
        yield client


def logits(client: triton.InferenceServerClient, name: str = NAME, version: str = "") -> bytes:
    tensor = triton.InferInput("x", list(ROWS.shape), "FP32").set_data_from_numpy(ROWS)
    return client.infer(name, [tensor], model_version=version).as_numpy("logits").tobytes()


def indexed(client: triton.InferenceServerClient, name: str = NAME) -> list[tuple[str, str, str]]:
    """Version, state and reason of each line of the index that is of this model."""
    lines = client.get_model_repository_index()
    return [(line["version"], line["state"], line["reason"]) for line in lines if line["name"] == name]


def test_an_unloaded_model_is_served_again_once_it_is_loaded(client: triton.InferenceServerClient) -> None:
    before = logits(client)
    client.unload_model(NAME)
    assert indexed(client) == [("1", "UNAVAILABLE", "unloaded")]
    assert not client.is_model_ready(NAME)
    with pytest.raises(InferenceServerException, match="model ln-mlp-digits/1 is not served: unloaded") as error:
        logits(client)
    assert error.value.status() == "503"
    assert client.is_server_ready()  # the other model serves
    client.unload_model(NAME, unload_dependents=True)  # once more does no harm
    client.load_model(NAME)
    assert indexed(client) == [("1", "READY", "")]
    assert logits(client) == before


def test_the_server_is_not_ready_when_all_its_models_are_unloaded(client: triton.InferenceServerClient) -> None:
    for name in (NAME, OTHER):
        client.unload_model(name)
    assert not client.is_server_ready()
    client.load_model(OTHER)
    assert client.is_server_ready()


def test_a_new_version_is_the_highest_and_one_that_is_gone_is_unknown(
    client: triton.InferenceServerClient, models: Path, address: str
) -> None:
    first = logits(client)
    place(OTHER, models / NAME / "10")
    assert client.get_model_metadata(NAME)["versions"] == ["1"]  # until it is loaded
    client.load_model(NAME)
    assert client.get_model_metadata(NAME)["versions"] == ["1", "10"]
    assert logits(client) == logits(client, OTHER) != first
    assert logits(client, version="1") == first
    ready = f'normserve_model_ready{{model="{NAME}",version='
    assert httpx.get(f"{address}/metrics").text.count(ready) == 2
    shutil.rmtree(models / NAME / "10")
    client.load_model(NAME)
    assert indexed(client) == [("1", "READY", "")]
    assert httpx.get(f"{address}/metrics").text.count(ready) == 1
    assert logits(client) == first
    with pytest.raises(InferenceServerException, match="has no version '10'; it has 1"):
        logits(client, version="10")


def test_a_model_that_came_after_the_start_can_be_loaded(client: triton.InferenceServerClient, models: Path) -> None:
    with pytest.raises(InferenceServerException, match="there is no model 'newcomer'") as error:
        client.load_model("newcomer")
    assert error.value.status() == "404"
    place(NAME, models / "newcomer" / "1", "newcomer")
    reason = spoil(models / "newcomer" / "1")
    with pytest.raises(InferenceServerException, match=f"model newcomer was not loaded: {reason}") as error:
        client.load_model("newcomer")
    assert error.value.status() == "409"
    assert indexed(client, "newcomer") == []
    place(NAME, models / "newcomer" / "1", "newcomer")
    client.load_model("newcomer")
    assert logits(client, "newcomer") == logits(client)


def test_no_request_is_lost_while_a_model_is_loaded_anew(address: str, models: Path) -> None:
    """Its files change each time, so every answer is known: one of the two, and the new one once it was loaded."""
    with client_of(address) as client:
        known = {source: logits(client, source) for source in (NAME, OTHER)}
    assert known[NAME] != known[OTHER]
    ended, answers, failures = threading.Event(), [list[bytes]() for _ in range(CLIENTS)], list[Exception]()

    def ask(mine: list[bytes]) -> None:
        try:
            with client_of(address) as client:
                while not ended.is_set():
                    mine.append(logits(client))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in answers]
    for thread in threads:
        thread.start()
    try:
        with client_of(address) as client:
            for source in (OTHER, NAME) * 5:
                place(source, models / NAME / "1")
                seen = [len(mine) for mine in answers]
                client.load_model(NAME)
                assert logits(client) == known[source]
                until(lambda seen=seen: failures or all(len(mine) > n for mine, n in zip(answers, seen, strict=True)))
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)
    assert not failures
    assert {answer for mine in answers for answer in mine} == {*known.values()}


def test_a_request_is_answered_by_what_it_began_on(address: str, models: Path) -> None:
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(ROWS.shape), "data": ROWS.ravel().tolist()}]}
    ).encode()
    url = f"{address}/v2/models/{NAME}/infer"
    old = httpx.post(url, content=body).json()
    with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), 30) as slow:
        head = f"POST /v2/models/{NAME}/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\n"
        slow.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        assert b"100 Continue" in slow.recv(1000)  # the model is held from before its body is read
        place(OTHER, models / NAME / "1")
        assert httpx.post(f"{address}/v2/repository/models/{NAME}/load", timeout=30).status_code == 200
        assert httpx.post(url, content=body).json() != old
        assert httpx.post(f"{address}/v2/repository/models/{NAME}/unload").status_code == 200
        assert httpx.post(url, content=body).status_code == 503
        slow.sendall(body)
        answer = b"".join(iter(lambda: slow.recv(2**16), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == old


def test_a_failed_load_leaves_all_as_it_was_and_says_why(client: triton.InferenceServerClient, models: Path) -> None:
    before = logits(client)
    place(OTHER, models / NAME / "2")
    place(OTHER, models / NAME / "3")
    reason = spoil(models / NAME / "3")
    with pytest.raises(InferenceServerException, match=f"model {NAME} was not loaded: {reason}") as error:
        client.load_model(NAME)
    assert error.value.status() == "409"
    ((version, state, why),) = indexed(client)
    assert (version, state) == ("1", "READY")
    assert why.startswith(f"its last load failed: {reason}")
    assert str(models) not in why
    assert client.is_model_ready(NAME)
    assert logits(client) == before
    place(OTHER, models / NAME / "3")
    client.load_model(NAME)
    assert indexed(client) == [(version, "READY", "") for version in "123"]


@pytest.mark.parametrize("emptied", [True, False])
def test_a_folder_that_is_gone_or_empty_takes_nothing_out_of_service(
    client: triton.InferenceServerClient, models: Path, emptied: bool
) -> None:
    before = logits(client)
    shutil.rmtree(models / NAME / "1" if emptied else models / NAME)
    with pytest.raises(InferenceServerException, match="it has no version" if emptied else "its folder is gone"):
        client.load_model(NAME)
    assert logits(client) == before


def test_loads_of_one_model_at_the_same_time_are_all_answered(address: str) -> None:
    statuses = list[int]()

    def load() -> None:
        statuses.append(httpx.post(f"{address}/v2/repository/models/{NAME}/load", timeout=60).status_code)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == [200] * 4


def test_counters_go_on_and_model_ready_says_what_serves(address: str) -> None:
    def figures() -> dict[str, str]:
        lines = httpx.get(f"{address}/metrics").text.splitlines()
        labels = f'{{model="{NAME}",version="1"}} '
        return dict(line.split(labels) for line in lines if labels in line)

    with client_of(address) as client:
        logits(client)
        client.load_model(NAME)
        logits(client)
        assert (figures()["normserve_rows_total"], figures()["normserve_model_ready"]) == ("6.0", "1.0")
        client.unload_model(NAME)
        assert figures()["normserve_model_ready"] == "0.0"
        assert client.get_inference_statistics(NAME)["model_stats"][0]["inference_count"] == 6


@pytest.mark.parametrize(
    ("action", "name", "body", "status", "words"),
    [
        ("load", NAME, {"parameters": {"config": "{}"}}, 400, "parameter 'config', it has no parameters"),
        ("load", NAME, {"parameters": {"file:1/model.onnx": "AAAA"}}, 400, "no file is taken from a request"),
        ("load", NAME, {"parameters": {"unload_dependents": True}}, 400, "it has no parameters"),
        ("load", NAME, {"parameters": [1]}, 400, "parameters of the request is [1], it must be a JSON object"),
        ("load", NAME, {"config": 1}, 400, "a field 'config', its one field is parameters"),
        ("unload", NAME, {"parameters": {"unload_dependents": 1}}, 400, "unload_dependents of the request is 1"),
        ("unload", NAME, {"parameters": {"force": True}}, 400, "its parameters are unload_dependents"),
        ("load", "layer_norm", {}, 400, "layer_norm is an operation: it ships with the server"),
        ("unload", "layer_norm", {}, 400, "layer_norm is an operation: it ships with the server"),
        ("unload", "nobody", {}, 404, "there is no model 'nobody'"),
        ("load", "..", {}, 404, "nothing at this path"),
        ("load", "%2e%2e", {}, 404, "there is no model"),
        ("load", f"..%2f{NAME}", {}, 404, "nothing at this path"),
    ],
)
def test_what_is_not_to_be_had_is_refused(
    address: str, action: str, name: str, body: dict[str, Any], status: int, words: str
) -> None:
    answer = httpx.post(f"{address}/v2/repository/models/{name}/{action}", json=body)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    with client_of(address) as client:
        assert {line["state"] for line in client.get_model_repository_index()} == {"READY"}


def test_a_folder_with_an_operations_name_or_no_models_name_is_not_loaded(
    client: triton.InferenceServerClient, models: Path
) -> None:
    for name in ("rms_norm", "no model"):
        shutil.copytree(ARTIFACTS / NAME, models / name)
    with pytest.raises(InferenceServerException, match="rms_norm is an operation"):
        client.load_model("rms_norm")
    with pytest.raises(InferenceServerException, match="no model by that name"):
        client.load_model("no model")
    assert {line["name"] for line in client.get_model_repository_index()} == {NAME, OTHER, *OPERATIONS}


@pytest.mark.parametrize("action", ["load", "unload"])
def test_without_the_setting_models_are_neither_loaded_nor_unloaded(serve: Any, models: Path, action: str) -> None:
    with serve(model_repository=models) as address:
        answer = httpx.post(f"{address}/v2/repository/models/{NAME}/{action}")
        assert answer.status_code == 403
        assert "setting MODEL_CONTROL is none, it must be explicit" in answer.json()["error"]
        described = httpx.get(f"{address}/openapi.json").json()["paths"][f"/v2/repository/models/{{name}}/{action}"]
        assert "403" in described["post"]["responses"]
        with client_of(address) as client:
            assert indexed(client) == [("1", "READY", "")]


def test_a_page_of_another_site_may_not_have_models_unloaded(address: str) -> None:
    def unload(**headers: str) -> httpx.Response:
        return httpx.post(f"{address}/v2/repository/models/{NAME}/unload", headers=headers)

    refused = unload(Origin="https://evil.example")
    assert refused.status_code == 403
    assert "a page of 'https://evil.example' may not" in refused.json()["error"]
    assert unload(Origin="null").status_code == 403
    assert httpx.get(f"{address}/v2/models/{NAME}/ready").status_code == 200
    assert unload(Origin=address).status_code == 200  # the server's own
