"""The service on OpenVINO: the same answers, the same promise, and a certificate that says what it was measured on."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from export.held_out import digits
from service.cores import available_cores
from service.provider import Provider

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
ROWS = 16


@pytest.fixture(scope="module")
def repository(openvino: Provider, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("ln-mlp-digits", "ln-lstm-charlm"):
        shutil.copytree(ARTIFACTS / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def on_openvino(serve: Any, repository: Path) -> Iterator[str]:
    with serve(execution_provider="openvino", model_repository=repository) as address:
        yield address


def logits(address: str, rows: np.ndarray) -> np.ndarray:
    with triton.InferenceServerClient(address.removeprefix("http://")) as client:
        tensor = triton.InferInput("x", list(rows.shape), "FP32").set_data_from_numpy(rows)
        return client.infer("ln-mlp-digits", [tensor]).as_numpy("logits")


def test_answers_are_those_of_cpu_but_for_last_bits(on_openvino: str, address: str) -> None:
    rows = digits().test_images[:ROWS]
    ours, theirs = logits(on_openvino, rows), logits(address, rows)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)  # the manifest's tolerance
    assert ours.tobytes() != theirs.tobytes()  # else this would be the CPU provider


def test_a_row_has_the_same_bits_alone_and_in_a_batch(on_openvino: str) -> None:
    rows = digits().test_images[:ROWS]
    alone = np.concatenate([logits(on_openvino, rows[row : row + 1]) for row in range(ROWS)])
    assert logits(on_openvino, rows).tobytes() == alone.tobytes()


def test_config_and_certificate_name_provider_and_precision(on_openvino: str) -> None:
    config = httpx.get(f"{on_openvino}/v2/models/ln-mlp-digits/config").json()
    assert (config["execution_provider"], config["precision"]) == ("openvino", "fp32")
    claims = httpx.get(f"{on_openvino}/v1/models/ln-mlp-digits/certificate").json()["claims"]
    on_this = {claim["claim"] for claim in claims if claim["how"].find("; on openvino, fp32") > 0}
    assert on_this == {"torch_onnx_parity", "batch_invariant", "thread_invariant"}


def test_operations_stay_on_cpu_and_give_its_bits(on_openvino: str, address: str) -> None:
    assert httpx.get(f"{on_openvino}/v2/models/layer_norm/config").json()["execution_provider"] == "cpu"
    x = (np.random.default_rng(0).standard_normal((4, 768)) + 1e4).tolist()
    answers = [httpx.post(f"{host}/v1/ops/layer_norm", json={"x": x}).content for host in (on_openvino, address)]
    assert answers[0] == answers[1]


def test_without_the_setting_config_says_cpu_at_fp32(address: str) -> None:
    config = httpx.get(f"{address}/v2/models/ln-mlp-digits/config").json()
    assert (config["execution_provider"], config["precision"]) == ("cpu", "fp32")


@pytest.mark.skipif(available_cores() < 2, reason="OpenVINO starts no more threads than there are cores")
@pytest.mark.parametrize(("certificate", "state"), [(None, "UNAVAILABLE"), ("report", "READY")])
def test_a_model_that_openvino_does_not_keep_invariant_is_refused_or_reported(
    serve: Any, repository: Path, tmp_path: Path, certificate: str | None, state: str
) -> None:
    """With two threads a row alone has other bits than in a batch: docs/decisions/0008."""
    shutil.copytree(ARTIFACTS / "ln-cnn-digits", tmp_path / "ln-cnn-digits")
    with serve(execution_provider="openvino", model_repository=tmp_path, certificate=certificate) as address:
        index = {entry["name"]: entry for entry in httpx.post(f"{address}/v2/repository/index").json()}
        assert index["ln-cnn-digits"]["state"] == state
        if state == "UNAVAILABLE":
            assert "batch_invariant" in index["ln-cnn-digits"]["reason"]
            assert index["ln-cnn-digits"]["reason"].endswith("; on openvino, fp32")
            assert httpx.get(f"{address}/v2/health/ready").status_code == 503
        else:
            claims = httpx.get(f"{address}/v1/models/ln-cnn-digits/certificate").json()["claims"]
            failed = {claim["claim"] for claim in claims if not claim["holds"]}
            assert failed == {"batch_invariant", "thread_invariant"}
