"""``digits-mlp``: what the committed run found, and that a run writes what it must."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from experiments.__main__ import EXPERIMENTS, main
from experiments.digits_mlp import MODELS, Training, train
from export.catalog import CATALOG
from export.held_out import digits
from models.mlp import MLPConfig
from service.artifact import Artifact
from service.manifest import Manifest

ROOT = Path(__file__).parents[2]
LEAST_ACCURACY = 0.96

each_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which ``python -m experiments --quick digits-mlp`` was run, and what it printed."""
    folder = tmp_path_factory.mktemp("quick")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["--quick", "digits-mlp"], Console(file=printed, width=200)) == 0
    return folder, printed.getvalue()


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "digits-mlp.json").read_text())


@each_model
def test_a_quick_run_leaves_an_artifact_that_the_service_takes(quick_run: tuple[Path, str], name: str) -> None:
    artifact = Artifact.read(quick_run[0] / "build/quick/artifacts" / name / "1")
    assert artifact.manifest.config["norm"] == MODELS[name]
    assert all(claim.holds or claim.claim == "train_eval_identical" for claim in artifact.manifest.certificate.claims)


def test_a_quick_run_stays_out_of_the_committed_folders(quick_run: tuple[Path, str]) -> None:
    assert [file.name for file in quick_run[0].iterdir()] == ["build"]


def test_a_run_writes_down_seed_configuration_versions_and_machine(quick_run: tuple[Path, str]) -> None:
    results = results_of(quick_run[0] / "build/quick/results")
    assert results["experiment"] == "digits-mlp"
    assert results["training"] == asdict(Training(epochs=2))
    assert isinstance(results["training"]["seed"], int)
    assert results["dataset_sha256"] == digits().sha256
    assert results["versions"]["torch"] == torch.__version__
    assert set(results["versions"]) == {"python", "torch", "numpy"}
    assert results["machine"]["cores"] >= 1
    assert isinstance(results["machine"]["processor"], str)
    assert set(results["models"]) == set(MODELS)


@each_model
def test_a_run_writes_a_line_of_history_per_epoch_and_prints_the_last(quick_run: tuple[Path, str], name: str) -> None:
    folder, printed = quick_run
    figures = results_of(folder / "build/quick/results")["models"][name]
    assert len(figures["history"]) == 2
    assert figures["history"][-1] == {key: figures[key] for key in ("loss", "accuracy", "nll")}
    assert figures["history"][1]["loss"] < figures["history"][0]["loss"]
    assert f"{name}: held-out accuracy {figures['accuracy']:.4f}, NLL {figures['nll']:.4f}" in printed


@each_model
def test_the_checkpoint_is_the_model_whose_figures_were_written_down(quick_run: tuple[Path, str], name: str) -> None:
    folder = quick_run[0] / "build/quick"
    figures = results_of(folder / "results")["models"][name]
    metric = Manifest.load(folder / "artifacts" / name / "1").metric
    assert metric is not None
    assert metric.torch == figures["accuracy"]
    # Two epochs are enough to see that something was learnt: a guess is right one time in ten.
    assert metric.served > 0.5


def test_the_same_seed_trains_the_same_weights_and_another_seed_others() -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        config = MLPConfig(norm="layer", hidden_sizes=(16,))
        return train(config, Training(seed=seed, epochs=1), Progress(disable=True), "test")[0].state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_the_catalogue_exports_the_models_as_they_are_trained() -> None:
    assert {name for name, spec in CATALOG.items() if spec.trained_by == "digits-mlp"} == set(MODELS)
    for name, norm in MODELS.items():
        assert CATALOG[name].config == asdict(MLPConfig(norm=norm))
    assert {spec.trained_by for spec in CATALOG.values()} - {None} <= set(EXPERIMENTS)


@each_model
def test_the_committed_results_are_high_and_those_of_the_committed_artifact(name: str) -> None:
    results = results_of(ROOT / "experiments" / "results")
    assert results["training"] == asdict(Training())
    assert results["dataset_sha256"] == digits().sha256
    figures = results["models"][name]
    assert figures["accuracy"] >= LEAST_ACCURACY
    manifest = Manifest.load(ROOT / "artifacts" / name / "1")
    assert manifest.metric is not None
    assert manifest.metric.torch == figures["accuracy"]
    assert json.loads(json.dumps(manifest.config)) == figures["config"]


def test_an_unknown_experiment_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["digit-mlp"], Console(file=io.StringIO()))
    assert caught.value.code == 2
    assert "there is no experiment 'digit-mlp'; there are digits-mlp" in capsys.readouterr().err
