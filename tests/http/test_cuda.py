"""The service on a GPU: the answers are those of the CPU within the manifests' tolerance, and the certificate says what
of the promises was measured to hold there. Run them on a machine with one: docs/gpu.md.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from service.certificate import samples
from service.manifest import Manifest
from service.protocol import Arrays

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
MODELS = sorted(folder.name for folder in ARTIFACTS.iterdir())
ROWS, LENGTH = 5, 7
AT_START = {"torch_onnx_parity", "batch_invariant", "thread_invariant"}

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def log() -> Iterator[list[str]]:
    """What the service logs, its start included."""
    messages = list[str]()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("service"), Handler()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture(scope="module")
def on_gpu(serve: Any, log: list[str]) -> Iterator[str]:
    with serve(execution_provider="cuda") as address:
        yield address


def manifest_of(name: str) -> Manifest:
    return Manifest.model_validate_json((ARTIFACTS / name / "1" / "manifest.json").read_bytes())


def rows_of(manifest: Manifest) -> Arrays:
    first = manifest.inputs[0]
    varying = iter((ROWS, LENGTH))
    shape = [next(varying) if size == -1 else size for size in first.shape]
    return samples(manifest, shape, np.random.default_rng(11))


def infer(address: str, manifest: Manifest, inputs: Arrays) -> Arrays:
    """All outputs, by the protocol's real client."""
    tensors = [
        triton.InferInput(tensor.name, list(inputs[tensor.name].shape), tensor.datatype).set_data_from_numpy(
            inputs[tensor.name]
        )
        for tensor in manifest.inputs
    ]
    wanted = [triton.InferRequestedOutput(tensor.name) for tensor in manifest.outputs]
    with triton.InferenceServerClient(address.removeprefix("http://"), network_timeout=60) as client:
        answer = client.infer(manifest.name, tensors, outputs=wanted)
        return {tensor.name: answer.as_numpy(tensor.name) for tensor in manifest.outputs}


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_cpu_within_the_tolerance(on_gpu: str, address: str, name: str) -> None:
    manifest = manifest_of(name)
    inputs = rows_of(manifest)
    ours, theirs = infer(on_gpu, manifest, inputs), infer(address, manifest, inputs)
    probe = manifest.probe
    for output, array in ours.items():
        print(name, output, "largest difference", float(np.abs(array - theirs[output]).max()))
        # Each may be as far from torch as that, and they may lie on either side.
        np.testing.assert_allclose(array, theirs[output], rtol=2 * probe.rtol, atol=2 * probe.atol)


@pytest.mark.parametrize("name", MODELS)
def test_the_certificate_says_what_was_measured_on_the_gpu(on_gpu: str, name: str) -> None:
    found = httpx.get(f"{on_gpu}/v1/models/{name}/certificate").json()["claims"]
    claims = {claim["claim"]: claim for claim in found}
    for claim in AT_START:
        print(name, claim, claims[claim]["holds"], claims[claim]["measured"])
        assert "; on cuda, fp32" in claims[claim]["how"]
        assert claims[claim]["checked"] == "start"
    # Whether rows keep their bits is measured and said, not promised. Parity is what makes it the same model.
    assert claims["batch_invariant"]["measured"]["rows_compared"] > 0
    assert claims["thread_invariant"]["measured"]["threads"] == [1, 2]
    assert claims["torch_onnx_parity"]["holds"]
    assert claims["metric_preserved"]["how"].endswith("; on cpu, fp32, not measured on cuda, fp32")


@pytest.mark.parametrize("name", MODELS)
def test_batch_invariance_is_what_the_certificate_says(on_gpu: str, name: str) -> None:
    """Rows alone and together over HTTP: where the claim holds, no bit differs."""
    manifest = manifest_of(name)
    inputs = rows_of(manifest)
    together = infer(on_gpu, manifest, inputs)
    differing = 0
    for row in range(ROWS):
        alone = infer(on_gpu, manifest, {key: array[row : row + 1] for key, array in inputs.items()})
        differing += any(together[key][row].tobytes() != array[0].tobytes() for key, array in alone.items())
    claims = httpx.get(f"{on_gpu}/v1/models/{name}/certificate").json()["claims"]
    (claim,) = (claim for claim in claims if claim["claim"] == "batch_invariant")
    print(name, f"{differing} of {ROWS} rows differ; the certificate:", claim["holds"], claim["measured"])
    assert differing == 0 or not claim["holds"]


@pytest.mark.parametrize("name", MODELS)
def test_the_same_request_has_the_same_bits_again(on_gpu: str, name: str) -> None:
    manifest = manifest_of(name)
    inputs = rows_of(manifest)
    first, again = (infer(on_gpu, manifest, inputs) for _ in range(2))
    assert all(first[output].tobytes() == array.tobytes() for output, array in again.items())


def test_every_model_serves_whatever_its_claims(on_gpu: str) -> None:
    index = httpx.post(f"{on_gpu}/v2/repository/index").json()
    assert {entry["state"] for entry in index if entry["name"] in MODELS} == {"READY"}


@pytest.mark.parametrize("name", MODELS)
def test_the_log_says_how_many_nodes_the_gpu_computes(on_gpu: str, log: list[str], name: str) -> None:
    (said,) = (message for message in log if message.startswith(f"{name}/1: cuda computes"))
    print(said)
    found = re.match(rf"{name}/1: cuda computes (\d+) of (\d+) nodes", said)
    assert found
    assert 2 * int(found[1]) > int(found[2])  # shapes and sequences are the CPU's, and are the fewer


def test_config_names_the_gpu(on_gpu: str) -> None:
    config = httpx.get(f"{on_gpu}/v2/models/ln-mlp-digits/config").json()
    assert (config["execution_provider"], config["precision"]) == ("cuda", "fp32")
    assert config["instance_group"] == [{"kind": "KIND_GPU", "gpus": [0], "count": 1, "intra_op_threads": 1}]


def test_operations_stay_on_cpu_and_give_its_bits(on_gpu: str, address: str) -> None:
    assert httpx.get(f"{on_gpu}/v2/models/layer_norm/config").json()["execution_provider"] == "cpu"
    x = (np.random.default_rng(0).standard_normal((4, 768)) + 1e4).tolist()
    answers = [httpx.post(f"{host}/v1/ops/layer_norm", json={"x": x}).content for host in (on_gpu, address)]
    assert answers[0] == answers[1]


def test_more_than_the_memory_allowed_fails_one_request_and_no_other(serve: Any) -> None:
    manifest = manifest_of("pre-ln-charlm")
    small, large = rows_of(manifest), samples(manifest, (256, 512), np.random.default_rng(3))
    with serve(execution_provider="cuda", gpu_memory_bytes=256 * 2**20) as address:
        before = infer(address, manifest, small)
        with pytest.raises(triton.InferenceServerException):
            infer(address, manifest, large)
        after = infer(address, manifest, small)
    assert before["logits"].tobytes() == after["logits"].tobytes()
