"""A client that a generator makes from ``/openapi.json``, used against the server the document is of."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from service.openapi import DIGIT

METHODS = {"get", "post"}


@pytest.fixture(scope="module")
def document(address: str) -> dict[str, object]:
    found: dict[str, object] = httpx.get(f"{address}/openapi.json").json()
    return found


@pytest.fixture(scope="module")
def generated(document: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The package that ``openapi-python-client`` writes; --fail-on-warning: it left nothing out."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "openapi.json").write_text(json.dumps(document))
    (folder / "config.yml").write_text("post_hooks: []")  # which would format it
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json", "--config"]
    command += ["config.yml", "--meta", "none", "--output-path", "norm_client", "--fail-on-warning"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("norm_client")
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] == "norm_client"]:
            del sys.modules[name]


def endpoint(name: str) -> ModuleType:
    return importlib.import_module(f"norm_client.api.{name}")


def models() -> ModuleType:
    return importlib.import_module("norm_client.models")


@pytest.fixture(scope="module")
def client(generated: ModuleType, address: str) -> Iterator[object]:
    with generated.Client(base_url=address, raise_on_unexpected_status=True) as client:
        yield client


def test_every_endpoint_of_the_document_has_a_function_of_a_short_name(
    document: dict[str, dict[str, dict[str, dict[str, object]]]], generated: ModuleType
) -> None:
    written = {file.stem for file in Path(str(generated.__file__)).parent.glob("api/*/[a-z]*.py")}
    operations = [
        operation["operationId"]
        for path in document["paths"].values()
        for method, operation in path.items()
        if method in METHODS
    ]
    assert sorted(written) == sorted(str(each) for each in operations)
    assert max(map(len, written)) < 30


def test_it_computes_an_operation(client: object) -> None:
    body = models().RowBody(x=[[1.0, 2.0, 3.0, 4.0]], eps=1e-6, return_stats=True)
    answer = endpoint("operations.layer_norm").sync(client=client, body=body)
    assert (answer.shape, answer.mean, answer.datatype.value) == ([1, 4], [[2.5]], "FP32")
    assert answer.y[0][3] == pytest.approx(1.3416402)


def test_it_infers(client: object) -> None:
    request = models().InferenceRequest(
        inputs=[models().RequestInput(name="x", datatype="FP32", shape=[1, 64], data=DIGIT)], id="a three"
    )
    for function, path in (("infer", ("ln-mlp-digits",)), ("infer_version", ("ln-mlp-digits", "1"))):
        answer = endpoint(f"inference.{function}").sync(*path, client=client, body=request)
        assert (answer.id, answer.outputs[0].name, answer.outputs[0].shape) == ("a three", "logits", [1, 10])
        assert max(range(10), key=answer.outputs[0].data.__getitem__) == 3


def test_it_reads_metadata_and_certificate(client: object) -> None:
    metadata = endpoint("models.model_metadata").sync("ln-mlp-digits", client=client)
    assert [(each.name, each.datatype, each.shape) for each in metadata.inputs] == [("x", "FP32", [-1, 64])]
    certificate = endpoint("certificate.model_certificate_version").sync("bn-mlp-digits", "1", client=client)
    assert [claim.claim for claim in certificate.claims if not claim.holds] == ["train_eval_identical"]


def test_it_knows_an_error(client: object) -> None:
    answer = endpoint("models.model_metadata").sync_detailed("nobody", client=client)
    assert (answer.status_code, type(answer.parsed)) == (404, models().ErrorBody)
    assert "there is no model 'nobody'" in answer.parsed.error
    empty = models().InferenceRequest(inputs=[])
    answer = endpoint("inference.infer").sync_detailed("ln-mlp-digits", client=client, body=empty)
    assert (answer.status_code, type(answer.parsed)) == (400, models().ErrorBody)
