"""A broken artifact does not take the server down: that model says why it is not served, the others serve."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import op_runtime
from service.openapi import DIGIT
from service.ops import OPERATIONS

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
GOOD, BROKEN = "bn-mlp-digits", "ln-mlp-digits"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest, and make its sha256 fit whatever the files are now."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    change(manifest)
    file.write_text(json.dumps(manifest))


def missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def wrong_sha256(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def outside_location(folder: Path) -> None:
    """The graph points at a file outside its folder, and every hash fits."""
    graph = (folder / "model.onnx").read_bytes()
    assert graph.count(b"model.safetensors") > 0
    location = b"../../evil.weight"
    assert len(location) == len(b"model.safetensors")
    shutil.copy(folder / "model.safetensors", folder / location.decode())
    (folder / "model.onnx").write_bytes(graph.replace(b"model.safetensors", location))
    rewrite(folder, lambda manifest: None)


def corrupt_graph(folder: Path) -> None:
    graph = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(graph[: len(graph) // 2])
    rewrite(folder, lambda manifest: None)


def truncated_weights(folder: Path) -> None:
    """Every tensor that the graph points to must lie inside the file."""
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    rewrite(folder, lambda manifest: None)


def other_weights(folder: Path) -> None:
    """Another training of the same model: every hash fits, the answers are not those that were certified."""
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-400:] = bytes(400)
    (folder / "model.safetensors").write_bytes(weights)
    rewrite(folder, lambda manifest: None)


def other_tensor_names(folder: Path) -> None:
    rewrite(folder, lambda manifest: manifest["inputs"][0].update(name="image"))


def link(path: Path, folder: Path) -> None:
    """What was there, reached by a link that leads out of the model repository."""
    outside = folder.parents[2] / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def linked_manifest(folder: Path) -> None:
    link(folder / "manifest.json", folder)


def linked_graph(folder: Path) -> None:
    link(folder / "model.onnx", folder)


def linked_weights(folder: Path) -> None:
    link(folder / "model.safetensors", folder)


def linked_version(folder: Path) -> None:
    link(folder, folder)


def linked_model(folder: Path) -> None:
    link(folder.parent, folder)


def weights_that_are_a_pipe(folder: Path) -> None:
    """Which nobody writes to: reading would wait for ever."""
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def no_version(folder: Path) -> None:
    folder.rename(folder.parent / "latest")


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing file": (missing_weights, "model.safetensors is missing"),
    "wrong sha256": (wrong_sha256, "model.safetensors has sha256 "),
    "external data outside its folder": (outside_location, "it refers to data outside model.safetensors"),
    "corrupt graph": (corrupt_graph, "model.onnx cannot be loaded: it is damaged"),
    "truncated weights": (truncated_weights, "model.onnx cannot be loaded"),
    "other weights": (other_weights, "its certificate does not hold on this machine: torch_onnx_parity"),
    "other tensor names": (other_tensor_names, "the graph's inputs are ['x'], the manifest's are ['image']"),
    "linked manifest": (linked_manifest, "manifest.json cannot be read: it is a link"),
    "linked graph": (linked_graph, "model.onnx cannot be read: it is a link"),
    "linked weights": (linked_weights, "model.safetensors cannot be read: it is a link"),
    "linked version": (linked_version, "its folder 1 is a link"),
    "linked model": (linked_model, "its folder ln-mlp-digits is a link"),
    "a pipe": (weights_that_are_a_pipe, "model.safetensors is not a regular file"),
    "no version folder": (no_version, "it has no version: a folder named 1, 2, ..."),
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    for name in (GOOD, BROKEN):
        shutil.copytree(ARTIFACTS / name, folder / name)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_a_broken_model_is_refused_with_its_reason_and_the_others_serve(
    serve: Any, repository: Path, case: str
) -> None:
    spoil, reason = CASES[case]
    spoil(repository / BROKEN / "1")
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]}
    with serve(model_repository=repository) as address:
        assert httpx.get(f"{address}/v2/health/ready").status_code == 200
        index = {entry["name"]: entry for entry in httpx.post(f"{address}/v2/repository/index").json()}
        assert (index[GOOD]["state"], index[BROKEN]["state"]) == ("READY", "UNAVAILABLE")
        assert reason in index[BROKEN]["reason"]
        only_ready = httpx.post(f"{address}/v2/repository/index", json={"ready": True}).json()
        assert {entry["name"] for entry in only_ready} == {GOOD, *OPERATIONS}
        refused = [
            httpx.get(f"{address}/v2/models/{BROKEN}/ready"),
            httpx.get(f"{address}/v2/models/{BROKEN}"),
            httpx.post(f"{address}/v2/models/{BROKEN}/infer", json=body),
        ]
        assert [answer.status_code for answer in refused] == [503, 503, 503]
        for answer in refused:
            assert reason in answer.json()["error"]
            assert str(repository) not in answer.text
        assert httpx.post(f"{address}/v2/models/{GOOD}/infer", json=body).status_code == 200
        metrics = httpx.get(f"{address}/metrics").text
        assert 'normserve_rejected_total{model="ln-mlp-digits",reason="not_ready"' in metrics


def test_report_serves_a_model_whose_claim_broke_and_says_so(serve: Any, repository: Path) -> None:
    other_weights(repository / BROKEN / "1")
    with serve(model_repository=repository, certificate="report") as address:
        certificate = httpx.get(f"{address}/v1/models/{BROKEN}/certificate").json()
        holds = {claim["claim"]: claim["holds"] for claim in certificate["claims"]}
        assert holds["torch_onnx_parity"] is False
        assert holds["batch_invariant"] is True


def test_an_integrity_failure_is_never_only_reported(serve: Any, repository: Path) -> None:
    wrong_sha256(repository / BROKEN / "1")
    with serve(model_repository=repository, certificate="report") as address:
        assert httpx.get(f"{address}/v2/models/{BROKEN}/ready").status_code == 503


def test_a_folder_without_a_model_that_serves_is_not_ready(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with serve(model_repository=tmp_path) as address:
        answer = httpx.get(f"{address}/v2/health/ready")
        assert answer.status_code == 503
        assert "no model can be served" in answer.json()["error"]
        assert httpx.get(f"{address}/v2/health/live").status_code == 200


def test_an_empty_folder_leaves_the_operations_and_the_log_says_which_folder_it_is(
    serve: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(model_repository=tmp_path) as address:
        assert httpx.get(f"{address}/v2/health/ready").status_code == 200
        assert set(httpx.get(f"{address}/v2/models").json()["models"]) == set(OPERATIONS)
    assert f"no model in {tmp_path}" in caplog.text


@pytest.mark.parametrize("fault", ["no graphs", "no certificate"])
def test_without_models_and_operations_nothing_is_ready(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    graphs = tmp_path / "graphs"
    shutil.copytree(op_runtime.GRAPHS, graphs)
    if fault == "no graphs":
        (graphs / "two_passes.FP64.onnx").unlink()
    else:
        certificates = json.loads((graphs / "certificates.json").read_text())
        (graphs / "certificates.json").write_text(json.dumps(certificates[1:]))
    monkeypatch.setattr(op_runtime, "GRAPHS", graphs)
    caplog.set_level("INFO")
    (tmp_path / "models").mkdir()
    with serve(model_repository=tmp_path / "models") as address:
        answer = httpx.get(f"{address}/v2/health/ready")
        assert (answer.status_code, "no model can be served" in answer.json()["error"]) == (503, True)
        refused = httpx.post(f"{address}/v1/ops/layer_norm", json={"x": [1, 2]})
        assert (refused.status_code, "its graphs cannot be loaded" in refused.json()["error"]) == (503, True)
    assert "0 of 0 models and 0 of 5 operations are ready" in caplog.text


def test_a_folder_of_an_operations_name_is_not_served_in_its_place(
    serve: Any, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (repository / BROKEN).rename(repository / "layer_norm")
    with serve(model_repository=repository) as address:
        assert "eps" in httpx.get(f"{address}/v2/models/layer_norm").json()["parameters"]
    assert "folder layer_norm is not served: that is the name of an operation" in caplog.text


def test_the_highest_version_answers_unless_another_is_named(serve: Any, repository: Path) -> None:
    for version in ("9", "10"):
        shutil.copytree(repository / GOOD / "1", repository / GOOD / version)
        rewrite(
            repository / GOOD / version,
            lambda manifest, version=version: (
                manifest.update(version=version),
                manifest["certificate"].update(model_version=version),
            ),
        )
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]}
    with serve(model_repository=repository) as address:
        assert httpx.get(f"{address}/v2/models/{GOOD}").json()["versions"] == ["1", "9", "10"]
        for path, version in (("", "10"), ("/versions/9", "9"), ("/versions/1", "1")):
            answer = httpx.post(f"{address}/v2/models/{GOOD}{path}/infer", json=body).json()
            assert answer["model_version"] == version


def test_a_broken_highest_version_is_not_replaced_by_an_older_one(serve: Any, repository: Path) -> None:
    shutil.copytree(repository / GOOD / "1", repository / GOOD / "2")  # its manifest says 1
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]}
    with serve(model_repository=repository) as address:
        assert httpx.post(f"{address}/v2/models/{GOOD}/infer", json=body).status_code == 503
        assert httpx.post(f"{address}/v2/models/{GOOD}/versions/1/infer", json=body).status_code == 200


def test_folders_that_cannot_be_models_are_passed_over(
    serve: Any, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (repository / BROKEN).rename(repository / "my model")
    (repository / os.fsdecode(b"no\xfftext")).mkdir()
    (repository / ".git").mkdir()
    (repository / "README.md").write_text("not a model")
    with serve(model_repository=repository) as address:
        index = {entry["name"]: entry for entry in httpx.post(f"{address}/v2/repository/index").json()}
        assert set(index) == {GOOD, *OPERATIONS}
        for path in ("/v2/models", "/v2/models/stats", "/metrics"):
            assert httpx.get(address + path).status_code == 200
    assert caplog.text.count("a model's name must match") == 2


def test_a_model_that_cannot_run_its_own_probe_is_refused_without_the_runtimes_words(
    serve: Any, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(repository / BROKEN / "1", lambda manifest: manifest["probe"].update(shapes=[[2, 63]]))
    with serve(model_repository=repository) as address:
        index = {entry["name"]: entry for entry in httpx.post(f"{address}/v2/repository/index").json()}
        assert index[BROKEN]["reason"] == "it failed while it was loaded; the server's log says why"
    assert "INVALID_ARGUMENT" in caplog.text
