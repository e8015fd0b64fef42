"""Folding omega away: the graph that is timed computes what the served one does, and has fewer nodes."""

from pathlib import Path

import numpy as np
import pytest

from experiments.folders import Folders
from experiments.omega_fold import CONFIG, both, run
from experiments.results import read_results
from export.topics import held_out_topics

ROOT = Path(__file__).parents[2]


def test_the_folded_model_answers_as_the_served_one_and_is_not_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    models = both()
    ids = held_out_topics().inputs["ids"][:5, :40]
    unfolded, folded = (model(ids) for model in models.values())
    assert unfolded.tobytes() != folded.tobytes()  # another order of roundings
    np.testing.assert_allclose(folded, unfolded, rtol=1e-4, atol=1e-4)


def test_a_quick_run_leaves_its_figures(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (line,) = run(folders, quick=True)
    found = read_results("omega-fold", folders.results)
    assert found["quartiles"][0] <= found["ratio"] <= found["quartiles"][1]
    assert f"{found['ratio']:.3f} of the time" in line


def test_the_committed_figures_are_of_this_config() -> None:
    assert read_results("omega-fold", ROOT / "experiments" / "results")["config"] == CONFIG
