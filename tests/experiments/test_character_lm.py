"""The character LMs: what is committed, that training repeats itself, and that it goes on where it was cut off."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from rich.progress import Progress

from experiments.character_lm import MODELS, RECURRENT, TRANSFORMERS, Training, train, training_of
from export.topics import topics
from service.manifest import Manifest

ROOT = Path(__file__).parents[2]
SHORT = Training(steps=4, learning_rate=1e-3, batch_size=2, length=8, evaluate_every=2)


@pytest.mark.parametrize("name", MODELS)
def test_the_committed_results_are_those_of_the_committed_artifact(name: str) -> None:
    results = json.loads((ROOT / "experiments" / "results" / "character-lm.json").read_text())
    found = results["models"][name]
    assert results["dataset_sha256"] == topics().sha256
    assert found["training"] == json.loads(json.dumps(asdict(training_of(name))))
    manifest = Manifest.load(ROOT / "artifacts" / name / "1")
    assert manifest.metric is not None
    assert manifest.metric.torch == pytest.approx(found["bits_per_character"], rel=1e-6)
    assert json.loads(json.dumps(manifest.config)) == found["config"]


def test_a_family_is_trained_alike() -> None:
    for family in (RECURRENT, TRANSFORMERS):
        assert len({training_of(name) for name in family}) == 1


@pytest.mark.parametrize("name", ["ln-rnn-charlm", "admin-charlm"])
def test_a_training_that_was_cut_off_ends_as_one_that_was_not(tmp_path: Path, name: str) -> None:
    progress = Progress(disable=True)
    whole, history = train(name, SHORT, progress, tmp_path / "whole")

    class CutOffError(Exception):
        pass

    class Cut(Progress):
        def update(self, *args: object, **fields: object) -> None:
            if fields.get("advance") and (seen := self.tasks[0].completed) >= 2:
                raise CutOffError(seen)
            super().update(*args, **fields)  # type: ignore[arg-type]

    with pytest.raises(CutOffError):
        train(name, SHORT, Cut(disable=True), tmp_path / "parts")
    gone_on, gone_on_history = train(name, SHORT, progress, tmp_path / "parts")
    assert gone_on_history == history
    assert all(torch.equal(tensor, gone_on.state_dict()[key]) for key, tensor in whole.state_dict().items())


def test_parts_of_another_training_are_not_gone_on_from(tmp_path: Path) -> None:
    progress = Progress(disable=True)
    train("ln-rnn-charlm", SHORT, progress, tmp_path)
    other, _ = train("ln-rnn-charlm", replace(SHORT, seed=1), progress, tmp_path)
    fresh, _ = train("ln-rnn-charlm", replace(SHORT, seed=1), progress, tmp_path / "fresh")
    assert all(torch.equal(tensor, fresh.state_dict()[key]) for key, tensor in other.state_dict().items())
