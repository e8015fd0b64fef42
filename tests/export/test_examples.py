"""Each example is exported, keeps the claims that it should, and is answered over HTTP as torch answers."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
import torch
import tritonclient.http as triton
from rich.console import Console
from torch import Tensor, nn

from export import export_model
from export.example import resized
from export.named_model import NamedModel, reproducible
from service.manifest import Manifest

EXAMPLES = Path(__file__).parents[2] / "examples"
MAX_ROWS = 8
FACTORIES = {
    "pre-ln": "transformer_encoder:build",
    "post-ln": "transformer_encoder:build_post_ln",
    "lstm": "lstm_tagger:build",
    "gru": "gru_classifier:build",
    "convnext": "convnext_block:build",
    "group-norm": "normalised_cnn:build",
    "instance-norm": "normalised_cnn:build_instance_norm",
    "batch-norm": "normalised_cnn:build_batch_norm",
    "qk-norm": "qk_norm_attention:build",
    "deep-norm": "deep_norm:build",
    "peri-ln": "peri_ln:build",
    "mix-ln": "mix_ln:build",
    "dynamic-tanh": "dynamic_tanh:build",
    "two-towers": "two_towers:build",
    "node-distribution": "node_distribution:build",
}
WITHOUT_ROWS = {"node-distribution"}
# The sizes that are found to vary, beside the rows, by their first place.
VARYING = {
    "pre-ln": {"x[1]", "padding[1]"},
    "post-ln": {"x[1]", "padding[1]"},
    "lstm": {"ids[1]"},
    "gru": {"series[1]"},
    "convnext": {"images[2]", "images[3]"},
    "group-norm": {"images[2]", "images[3]"},
    "instance-norm": {"images[2]", "images[3]"},
    "batch-norm": {"images[2]", "images[3]"},
    "qk-norm": {"x[1]"},
    "deep-norm": {"x[1]"},
    "peri-ln": {"x[1]"},
    "mix-ln": {"x[1]"},
    "dynamic-tanh": set(),
    "two-towers": {"seen[1]", "counts[1]"},
    "node-distribution": {"nodes[0]", "edges[0]", "edges[1]"},
}
BROKEN = {"batch-norm": {"train_eval_identical"}}

each = pytest.mark.parametrize("name", FACTORIES)


class Example(NamedTuple):
    """A module, its inputs, and what was exported of it."""

    model: nn.Module
    inputs: dict[str, Tensor]
    manifest: Manifest


class Served(NamedTuple):
    """Every example by name, and where all of them are served."""

    examples: dict[str, Example]
    address: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, serve: Any) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("examples")
    examples = {}
    for name, factory in FACTORIES.items():
        file, _, build = factory.partition(":")
        module = import_module(f"examples.{file}")
        torch.manual_seed(1)
        model, inputs = getattr(module, build)(), module.example()
        manifest = export_model(
            model,
            inputs,
            name,
            repository,
            batch_axis=None if name in WITHOUT_ROWS else 0,
            max_rows=MAX_ROWS,
            samples=16,
            console=Console(quiet=True),
        )
        examples[name] = Example(model.eval(), inputs, manifest)
    with serve(model_repository=repository) as address:
        yield Served(examples, address)


def test_every_file_is_tried() -> None:
    files = {file.stem for file in EXAMPLES.glob("*.py")} - {"__init__"}
    assert files == {factory.partition(":")[0] for factory in FACTORIES.values()}


def test_the_table_says_of_each_what_the_other_tests_measure() -> None:
    lines = (EXAMPLES / "README.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == list(FACTORIES.values())
    for name, (_, _, varying, broken) in zip(FACTORIES, rows, strict=True):
        assert (varying == "none") == (not VARYING[name])
        assert set(broken.replace("`", "").split()) == BROKEN.get(name, set())


@pytest.mark.timeout(300)  # the first waits for the export of all of them
@each
def test_an_example_keeps_the_claims_that_it_should(served: Served, name: str) -> None:
    manifest = served.examples[name].manifest
    claims = {claim.claim: claim for claim in manifest.certificate.claims}
    expected = {"train_eval_identical", "torch_onnx_parity", "float64_error", "thread_invariant"}
    assert claims.keys() == expected | (set() if name in WITHOUT_ROWS else {"batch_invariant"})
    assert {claim for claim, measured in claims.items() if not measured.holds} == BROKEN.get(name, set())


@each
def test_the_sizes_that_vary_are_found(served: Served, name: str) -> None:
    sizes = served.examples[name].manifest.config["sizes"]
    assert {place for place, words in sizes.items() if words.startswith("varies")} == VARYING[name]


def at_the(end: str, example: Example) -> dict[str, np.ndarray]:
    """The example's inputs, every size that varies but the rows at its least or its most."""
    arrays = {name: tensor.numpy() for name, tensor in example.inputs.items()}
    sizes = {
        (tensor.name, axis): (tensor.min_shape or [1] * len(tensor.shape))[axis]
        if end == "least"
        else (tensor.max_shape or tensor.shape)[axis]
        for tensor in example.manifest.inputs
        for axis, size in enumerate(tensor.shape)
        if size == -1 and (axis or example.manifest.batch_axis is None)
    }
    return arrays if end == "example" else resized(arrays, sizes)


@each
@pytest.mark.parametrize("end", ["least", "example", "most"])
def test_an_example_answers_over_http_as_torch_does(served: Served, name: str, end: str) -> None:
    example = served.examples[name]
    client = triton.InferenceServerClient(served.address.removeprefix("http://"), network_timeout=60)
    datatypes = {tensor.name: tensor.datatype for tensor in example.manifest.inputs}
    inputs = at_the(end, example)
    sent = [
        triton.InferInput(key, list(array.shape), datatypes[key]).set_data_from_numpy(array)
        for key, array in inputs.items()
    ]
    answer = client.infer(name, sent)
    client.close()
    model = NamedModel(example.model, list(inputs))
    with reproducible(), torch.no_grad():
        returned = model.returned(*(torch.from_numpy(array) for array in inputs.values()))
    expected = returned if isinstance(returned, dict) else {"y": returned}
    assert expected.keys() == {tensor.name for tensor in example.manifest.outputs}
    for key, tensor in expected.items():
        np.testing.assert_allclose(answer.as_numpy(key), tensor.numpy(), rtol=1e-4, atol=1e-5)


@each
def test_its_certificate_holds_where_it_is_served(served: Served, name: str) -> None:
    claims = httpx.get(f"{served.address}/v1/models/{name}/certificate").json()["claims"]
    assert {claim["claim"] for claim in claims if not claim["holds"]} == BROKEN.get(name, set())
    assert {"torch_onnx_parity", "thread_invariant"} <= {
        claim["claim"] for claim in claims if claim["checked"] == "start"
    }
