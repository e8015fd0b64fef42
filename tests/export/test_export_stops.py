"""An export that cannot keep its promise says which, and leaves the folder as it was."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from export.artifact import export_artifact
from export.catalog import CATALOG, ExportSpec
from export.checkpoint import save_checkpoint
from export.errors import ExportError
from models.mlp import MLP, MLPConfig
from service.artifact import Artifact
from service.manifest import GRAPH_FILE, MANIFEST_FILE, WEIGHTS_FILE


class Faithful(nn.Module):
    """A model small enough to be exported in a second."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Unfaithful(Faithful):
    """Exports another function than it computes, as a forward that looks at how it is run can."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0.01 if torch.compiler.is_exporting() else 0.0)


def small_spec(build: type[nn.Module]) -> ExportSpec:
    spec = CATALOG["ln-mlp-digits"]
    return replace(
        spec,
        name="small",
        build=build,
        inputs=(spec.inputs[0].model_copy(update={"shape": [-1, 6]}),),
        outputs=(spec.outputs[0].model_copy(update={"shape": [-1, 2]}),),
        example_shape=(3, 6),
        probe_shapes=((2, 6), (7, 6)),
        held_out=None,
        max_rows=16,
    )


def served_before(folder: Path, checkpoint_of: nn.Module) -> dict[str, bytes]:
    """A folder with an artifact in it; answers its content by name."""
    save_checkpoint(checkpoint_of, folder / WEIGHTS_FILE)
    (folder / GRAPH_FILE).write_bytes(b"the graph served so far")
    (folder / MANIFEST_FILE).write_bytes(b"the manifest served so far")
    return content(folder)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_an_export_that_keeps_its_promise_replaces_graph_and_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "small" / "1"
    before = served_before(folder, Faithful())
    manifest = export_artifact(small_spec(Faithful), tmp_path)
    assert Artifact.read(folder).manifest.to_json() == manifest.to_json()
    assert content(folder).keys() == before.keys()
    assert content(folder)[WEIGHTS_FILE] == before[WEIGHTS_FILE]


def test_missed_parity_stops_the_export_and_says_by_how_much(tmp_path: Path) -> None:
    folder = tmp_path / "small" / "1"
    before = served_before(folder, Unfaithful())
    with pytest.raises(ExportError, match="small: onnxruntime's answers are not torch's") as caught:
        export_artifact(small_spec(Unfaithful), tmp_path)
    assert re.search(r"'max_abs': 0\.0(10|09999)", str(caught.value))  # 0.01, as float32 measures it
    assert "|difference| <= 1e-05 + 1e-05 |torch|" in str(caught.value)
    assert content(folder) == before


def test_missed_parity_leaves_random_weights_as_they_were_too(tmp_path: Path) -> None:
    folder = tmp_path / "small" / "1"
    before = served_before(folder, Unfaithful())
    with pytest.raises(ExportError, match="are not torch's"):
        export_artifact(replace(small_spec(Unfaithful), trained_by=None), tmp_path)
    assert content(folder) == before


def test_a_missing_checkpoint_stops_the_export_and_names_the_command_that_trains_it(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="`python -m experiments digits-mlp`") as caught:
        export_artifact(CATALOG["ln-mlp-digits"], tmp_path)
    assert str(tmp_path / "ln-mlp-digits" / "1" / WEIGHTS_FILE) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "other", [MLPConfig(norm="batch"), MLPConfig(norm="layer", hidden_sizes=(256, 128))], ids=["norm", "sizes"]
)
def test_the_checkpoint_of_another_model_stops_the_export(tmp_path: Path, other: MLPConfig) -> None:
    folder = tmp_path / "ln-mlp-digits" / "1"
    before = served_before(folder, MLP(other))
    with pytest.raises(ExportError, match="is not a checkpoint of this model"):
        export_artifact(CATALOG["ln-mlp-digits"], tmp_path)
    assert content(folder) == before
