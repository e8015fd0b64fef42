"""Weights in fewer bits: stored so, computed with exactly, and what they cost is in the certificate."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from export import ExportError, export_model
from export.factory import load_weights
from export.held_out import HeldOut
from export.precision import STEPS, reduce_weights, restored
from export.verification import verify
from service.artifact import Artifact
from service.certificate import open_session, probe_inputs, runner
from service.manifest import Claim, Manifest

QUIET = Console(quiet=True)


class Tagger(nn.Module):
    """A table, a convolution, a recurrence and a tied product."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.convolution = nn.Conv1d(16, 16, 3, padding=1)
        self.recurrent = nn.GRU(16, 16, batch_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.convolution(self.embedding(ids).transpose(1, 2)).transpose(1, 2)
        return self.head(self.norm(self.recurrent(x)[0]))  # type: ignore[no-any-return]


def tagger() -> nn.Module:
    torch.manual_seed(0)
    return Tagger()


def claims(manifest: Manifest) -> dict[str, Claim]:
    return {claim.claim: claim for claim in manifest.certificate.claims}


@pytest.fixture(scope="module", params=["fp16", "int8"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Path]:
    repository = tmp_path_factory.mktemp(request.param)
    ids = torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(0))
    more: dict[str, Any] = {"max_rows": 8, "precision": request.param, "console": QUIET}
    return export_model(tagger(), {"ids": ids}, "small", repository, **more), repository / "small" / "1"


def test_every_claim_but_that_of_precision_holds_and_that_one_says_what_it_costs(
    exported: tuple[Manifest, Path],
) -> None:
    found = claims(exported[0])
    assert {name for name, claim in found.items() if not claim.holds} == {"full_precision"}
    measured = found["full_precision"].measured
    assert measured["cause"] == "the weights have fewer bits than they were trained with"
    low, high = {"fp16": (1e-5, 1e-3), "int8": (1e-3, 3e-2)}[measured["weights"]]
    assert low < measured["relative"] < high
    assert 0.9 * measured["rows_of_numbers"] < measured["same_largest"] <= measured["rows_of_numbers"]


def test_weights_are_stored_in_fewer_bits_and_the_rest_as_it_was(exported: tuple[Manifest, Path]) -> None:
    manifest, folder = exported
    state, trained = load_file(folder / "model.safetensors"), tagger().state_dict()
    precision = claims(manifest)["full_precision"].measured["weights"]
    for name, tensor in trained.items():
        if tensor.ndim < 2:
            assert torch.equal(state[name], tensor)
            continue
        assert state[name].dtype == {"fp16": torch.float16, "int8": torch.int8}[precision]
        assert torch.allclose(restored(state)[name], tensor, atol=float(tensor.abs().max()) / STEPS)
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    assert all(
        initializer.data_location == onnx.TensorProto.EXTERNAL for initializer in graph.initializer if initializer.dims
    )


def test_onnxruntime_computes_with_the_very_weights(exported: tuple[Manifest, Path]) -> None:
    manifest, folder = exported
    model = tagger().eval()
    load_weights(model, folder / "model.safetensors")
    artifact = Artifact.read(folder)
    run = runner(open_session(artifact.graph, artifact.weights, 1), manifest)
    for inputs in probe_inputs(manifest):
        with torch.no_grad():
            expected = model(torch.from_numpy(inputs["ids"]))
        np.testing.assert_allclose(run(inputs)["y"], expected, rtol=1e-4, atol=1e-5)


def test_it_is_checked_again_with_its_module(exported: tuple[Manifest, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.verification.module_of", lambda _factory, _arguments: tagger())
    assert verify(exported[1], "theirs:tagger", {}, QUIET)


def test_the_metric_is_compared_with_that_of_the_trained_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(64, 64, bias=False), torch.randn(8, 64)
    with torch.no_grad():
        expected = model(x).numpy()

    def error(outputs: dict[str, np.ndarray]) -> dict[str, float]:
        return {"error": 1 + float(np.abs(outputs["y"] - expected).mean())}

    held_out = HeldOut("drawn", "0" * 64, "all", {"x": x.numpy()}, error)
    manifest = export_model(
        model, {"x": x}, "small", tmp_path, precision="int8", held_out=held_out, max_rows=8, console=QUIET
    )
    metric = claims(manifest)["metric_preserved"]
    assert not metric.holds
    assert metric.measured["cause"] == "see full_precision"
    assert metric.measured["error"]["torch"] == pytest.approx(1, abs=1e-6)
    assert metric.measured["error"]["served"] > 1.001


class Largest(nn.Module):
    """Two classes, told apart by a weight that is less than half a step of int8."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1, 0, 0, 0], [1, 0.001, 0, 0]]))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight.T).argmax(-1)


class Logarithm(nn.Module):
    """Of a number that fp16 takes for zero."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1e-9, 1, 1, 1]]))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight.log()


@pytest.mark.parametrize(("model", "precision"), [(Largest(), "int8"), (Logarithm(), "fp16")])
def test_a_class_that_changes_and_a_number_that_is_none_any_more_are_seen(
    model: nn.Module, precision: Any, tmp_path: Path
) -> None:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    manifest = export_model(model, {"x": x}, "small", tmp_path, precision=precision, max_rows=8, console=QUIET)
    claim = claims(manifest)["full_precision"]
    assert claim.measured["unequal"] > 0
    assert not claim.holds


def test_a_row_of_zeros_stays_one_and_the_module_takes_the_rounded_weights() -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0, 0], [1, -0.5, 0.25]]))
    stored = reduce_weights(model, "int8")
    assert stored["weight"].tolist() == [[0, 0, 0], [127, -64, 32]]
    assert torch.equal(model.weight, restored(stored)["weight"])
    assert stored.keys() == {"weight", "weight.scale"}


def test_a_weight_that_fp16_cannot_hold_is_told() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(1e5)
    with pytest.raises(ExportError, match="weight has 100000 in it, fp16 goes up to 65504: use int8"):
        reduce_weights(model, "fp16")
