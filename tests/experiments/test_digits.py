"""The digits: what the committed runs found, and that a run writes what it must."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from experiments import digits as experiment
from experiments.__main__ import EXPERIMENTS, main
from experiments.digits import Training, train
from export.catalog import CATALOG
from export.held_out import digits
from service.artifact import Artifact
from service.manifest import Manifest

ROOT = Path(__file__).parents[2]
LEAST_ACCURACY = 0.96

MLPS = experiment.MODELS["digits-mlp"]
each_mlp = pytest.mark.parametrize("name", MLPS)
each_model = pytest.mark.parametrize(
    ("name", "trained_by"), [(name, trained_by) for trained_by, names in experiment.MODELS.items() for name in names]
)


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which ``python -m experiments --quick digits-mlp`` was run, and what it printed."""
    folder = tmp_path_factory.mktemp("quick")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["--quick", "digits-mlp"], Console(file=printed, width=200)) == 0
    return folder, printed.getvalue()


def results_of(folder: Path, name: str = "digits-mlp") -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


@each_mlp
def test_a_quick_run_leaves_an_artifact_that_the_service_takes(quick_run: tuple[Path, str], name: str) -> None:
    artifact = Artifact.read(quick_run[0] / "build/quick/artifacts" / name / "1")
    assert artifact.manifest.name == name
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
    assert set(results["models"]) == set(MLPS)


@each_mlp
def test_a_run_writes_a_line_of_history_per_epoch_and_prints_the_last(quick_run: tuple[Path, str], name: str) -> None:
    folder, printed = quick_run
    figures = results_of(folder / "build/quick/results")["models"][name]
    assert len(figures["history"]) == 2
    assert figures["history"][-1] == {key: figures[key] for key in ("loss", "accuracy", "nll")}
    assert figures["history"][1]["loss"] < figures["history"][0]["loss"]
    assert f"{name}: held-out accuracy {figures['accuracy']:.4f}, nll {figures['nll']:.4f}" in printed


@each_mlp
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
        return train("ln-mlp-digits", Training(seed=seed, epochs=1), Progress(disable=True))[0].state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_the_catalogue_exports_what_the_experiments_train() -> None:
    for trained_by, names in experiment.MODELS.items():
        assert {name for name, spec in CATALOG.items() if spec.trained_by == trained_by} == set(names)
    assert {spec.trained_by for spec in CATALOG.values()} - {None} <= set(EXPERIMENTS)


@each_model
def test_the_committed_results_are_high_and_those_of_the_committed_artifact(name: str, trained_by: str) -> None:
    results = results_of(ROOT / "experiments" / "results", trained_by)
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
