"""``python -m export check``, ``diff`` and ``adopt``."""

import io
import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from rich.console import Console
from torch import Tensor, nn

from export import export_model
from export.__main__ import main
from service.manifest import Manifest, Probe

COLUMNS = 6


def run(*arguments: object) -> tuple[int, str]:
    printed = io.StringIO()
    status = main([str(each) for each in arguments], Console(file=printed, width=220))
    return status, printed.getvalue()


def lines(printed: str) -> dict[str, str]:
    return {line.split("│")[1].strip(): line for line in printed.splitlines() if line.startswith("│")}


def classifier(norm: str = "layer") -> nn.Module:
    torch.manual_seed(0)
    norms = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}
    return nn.Sequential(nn.Linear(COLUMNS, 4), norms[norm](4))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of one model: with LayerNorm, and with BatchNorm. The first says what made it."""
    folder = tmp_path_factory.mktemp("repository")
    for version, norm in enumerate(("layer", "batch"), start=1):
        export_model(
            classifier(norm),
            {"x": torch.randn(4, COLUMNS)},
            "m",
            folder,
            version=version,
            max_rows=8,
            config={"factory": f"{__name__}:classifier", "arguments": {"norm": norm}},
            console=Console(quiet=True),
        )
    return folder


@pytest.fixture
def as_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file under the name by which the manifests know it."""
    monkeypatch.setitem(sys.modules, __name__, types.SimpleNamespace(classifier=classifier))  # type: ignore[arg-type]


def test_check_without_its_module_measures_the_rest_and_says_what_is_missing(repository: Path) -> None:
    status, printed = run("check", repository / "m" / "1")
    assert status == 0
    found = lines(printed)
    assert "not measured" in found["train_eval_identical"]
    assert f"--recorded for {__name__}:classifier" in found["train_eval_identical"]
    assert found["batch_invariant"].count("holds") == found["torch_onnx_parity"].count("holds") == 2


@pytest.mark.usefixtures("as_module")
@pytest.mark.parametrize("how", ["factory", "recorded"])
def test_check_with_its_module_measures_every_claim_of_every_version(repository: Path, how: str) -> None:
    if how == "factory":
        status, printed = run("check", repository / "m" / "1", "--factory", f"{__name__}:classifier")
        assert lines(printed)["train_eval_identical"].count("holds") == 2
    else:
        status, printed = run("check", repository / "m", "--recorded")
        assert printed.count("files as hashed") == 2
        assert lines(printed)["train_eval_identical"].count("does not hold") == 2  # of the last, with BatchNorm
    assert status == 0
    assert "not measured" not in printed


def test_check_finds_a_changed_file_and_another_module(repository: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(repository / "m" / "1", tmp_path / "m" / "1"))
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    status, printed = run("check", folder)
    assert status == 1
    assert "model.safetensors has sha256" in printed
    status, printed = run("check", repository / "m" / "1", "--factory", "torch.nn:Identity")
    assert status == 1
    assert "is not a checkpoint of this model" in printed
    status, printed = run("check", tmp_path)
    assert status == 1
    assert "is no artifact" in printed


class WithoutTraining(nn.Module):
    """The same function; it cannot be asked in train() any more."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = classifier()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("no [training] here")
        return self.layers(x)  # type: ignore[no-any-return]

    def state_dict(self, *arguments: Any, **more: Any) -> Any:
        return self.layers.state_dict(*arguments, **more)

    def load_state_dict(self, *arguments: Any, **more: Any) -> Any:
        return self.layers.load_state_dict(*arguments, **more)


def test_check_fails_where_a_claim_that_held_cannot_be_measured_any_more(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "changed", types.SimpleNamespace(build=WithoutTraining))  # type: ignore[arg-type]
    status, printed = run("check", repository / "m" / "1", "--factory", "changed:build")
    assert status == 1
    assert "cannot be measured" in lines(printed)["train_eval_identical"]
    assert "RuntimeError: no [training] here" in lines(printed)["train_eval_identical"]


def test_check_finds_a_claim_that_does_not_hold_any_more(repository: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(repository / "m" / "1", tmp_path / "m" / "1"))
    manifest = json.loads((folder / "manifest.json").read_text())
    size = Manifest.load(folder).probe.expected().size
    manifest["probe"]["outputs"] = Probe.pack([{"y": np.zeros(size, "f4")}])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    status, printed = run("check", folder)
    assert status == 1
    assert "does not hold" in lines(printed)["torch_onnx_parity"]


def test_diff_says_by_how_much_and_how_fast_and_which_claim_is_lost(repository: Path) -> None:
    status, printed = run("diff", repository / "m" / "1", repository / "m" / "2")
    assert status == 1
    found = lines(printed)
    assert "up to" in found["y, same inputs"]
    assert "ms" in found["1 row, 1 thread"]
    assert "ms" in found["8 rows, 1 thread"]
    assert "lost" in found["train_eval_identical"]
    status, printed = run("diff", repository / "m", repository / "m" / "2")  # the highest version is the second
    assert status == 0
    assert "up to 0 of" in lines(printed)["y, same inputs"]


def test_diff_refuses_models_of_other_inputs(repository: Path) -> None:
    status, printed = run("diff", repository / "m", Path(__file__).parents[2] / "artifacts" / "ln-gru-charlm")
    assert status == 1
    assert "they cannot be compared: the inputs of" in printed


QUANTISED = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 6] x) => (float[N, 6] y) {
    quantised, scale, zero = DynamicQuantizeLinear (x)
    y = DequantizeLinear (quantised, scale, zero)
}"""


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch.onnx's own
def test_adopted_is_served_with_the_claims_that_need_no_torch(tmp_path: Path, serve: Any) -> None:
    model = classifier().eval()
    x = torch.randn(3, COLUMNS)
    shapes = ({0: torch.export.Dim("n")},)
    torch.onnx.export(model, (x,), tmp_path / "theirs.onnx", input_names=["x"], dynamic_shapes=shapes, verbose=False)
    repository = tmp_path / "repository"
    where = ("--example", "x=FP32[4,6]", "--repository", repository, "--max-rows", 8)
    status, printed = run("adopt", tmp_path / "theirs.onnx", "--name", "theirs", *where)
    assert status == 0
    found = lines(printed)
    for claim in ("runtime_parity", "batch_invariant", "thread_invariant"):
        assert "yes" in found[claim]
    assert "not measured" in found["train_eval_identical"]
    with serve(model_repository=repository) as address:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 6], "data": x.tolist()}]}
        answer = httpx.post(f"{address}/v2/models/theirs/infer", json=body).json()["outputs"][0]
        claims = httpx.get(f"{address}/v1/models/theirs/certificate").json()["claims"]
    np.testing.assert_allclose(np.reshape(answer["data"], (3, 4)), model(x).detach(), rtol=1e-4, atol=1e-5)
    checked = {claim["claim"]: claim["checked"] for claim in claims}
    assert checked == dict.fromkeys(("runtime_parity", "batch_invariant", "thread_invariant"), "start")
    weight = model[0].weight.detach().numpy()  # type: ignore[index,union-attr]
    folder = repository / "theirs" / "1"
    stored = (folder / "model.safetensors").read_bytes()
    assert weight.tobytes() in stored or np.ascontiguousarray(weight.T).tobytes() in stored
    assert run("check", folder)[0] == 0


OF_LENGTH = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, T] x, float[N, T] y) => (float[N, T] z)
    <float[1, 5] table = {1, 2, 3, 4, 5}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}>
{
    shape = Shape (x)
    length = Slice (shape, one, two)
    first = Slice (table, zero, length, one)
    sum = Add (x, y)
    z = Mul (sum, first)
}"""


def test_adopted_sizes_go_as_far_as_the_graph_does(tmp_path: Path) -> None:
    onnx.save(parser.parse_model(OF_LENGTH), tmp_path / "table.onnx")
    where = ("--repository", tmp_path, "--max-rows", 8, "--example", "x=FP32[4,3]", "--example", "y=FP32[4,3]")
    status, printed = run("adopt", tmp_path / "table.onnx", "--name", "t", *where)
    assert status == 0, printed
    x, y = Manifest.load(tmp_path / "t" / "1").inputs
    assert x.max_shape == y.max_shape == [8, 5]
    assert x.axes == y.axes == [None, "x_1"]
    assert "varies, 1 to 5" in printed


def test_adopted_dynamic_quantisation_is_not_batch_invariant_and_says_why(tmp_path: Path) -> None:
    onnx.save(parser.parse_model(QUANTISED), tmp_path / "quantised.onnx")
    status, printed = run(
        *("adopt", tmp_path / "quantised.onnx", "--name", "q", "--repository", tmp_path, "--max-rows", 8),
        *("--example", "x=FP32[4,6]"),
    )
    assert status == 0
    assert " no " in lines(printed)["batch_invariant"]
    (claim,) = (c for c in Manifest.load(tmp_path / "q" / "1").certificate.claims if c.claim == "batch_invariant")
    assert claim.measured["cause"].startswith("dynamic quantisation")


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ("z=FP32[4,6]", "the example has the inputs z, the graph takes x"),
        ("x=FP64[4,6]", "input x of the example is FP64, the graph takes another datatype"),
        ("x=FP32[4,7]", "the graph cannot be run for 1 rows"),
    ],
)
def test_what_cannot_be_adopted_says_why(example: str, words: str, tmp_path: Path) -> None:
    onnx.save(parser.parse_model(QUANTISED), tmp_path / "quantised.onnx")
    repository = tmp_path / "repository"
    file = tmp_path / "quantised.onnx"
    status, printed = run("adopt", file, "--name", "q", "--repository", repository, "--example", example)
    assert status == 1
    assert words in printed
    assert not repository.exists()


def test_what_is_no_graph_is_not_adopted(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    status, printed = run("adopt", tmp_path / "text.onnx", "--name", "q", "--example", "x=FP32[4,6]")
    assert status == 1
    assert "text.onnx is no ONNX model" in printed
