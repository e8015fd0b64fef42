"""Recurrent language models with and without LayerNorm: what a cell measures, and the time of a step."""

from pathlib import Path
from typing import Any

import pytest

from experiments import step_time
from experiments.folders import Folders
from experiments.recurrent import CONFIG, build, cells, measure, panels_of, run, steps_to, summary
from experiments.results import read_results
from export.topics import topics

ROOT = Path(__file__).parents[2]
CELL = {"seed": 0, "length": 20, "clip": 1.0, "kind": "gru", "norm": "layer"}
SHORT = {**CONFIG, "steps": 6, "every": 2}


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return read_results("recurrent", ROOT / "experiments" / "results")


def test_the_committed_cells_are_the_whole_grid(committed: dict[str, Any]) -> None:
    assert committed["config"] == CONFIG
    assert committed["dataset_sha256"] == topics().sha256
    assert [row["cell"] for row in committed["cells"]] == cells()
    assert len(summary(committed["cells"], CONFIG)) == 2 * len(panels_of(committed["cells"])) == 16


def test_the_committed_curves_are_what_the_code_measures(committed: dict[str, Any]) -> None:
    row = next(row for row in committed["cells"] if row["cell"]["kind"] == "lstm" and row["cell"]["norm"] == "layer")
    found = measure(row["cell"], {**CONFIG, "steps": 2 * CONFIG["every"]})
    # Another processor rounds differently, which 50 steps amplify; without LN the second figure is 4.6 % larger.
    assert found["curve"] == pytest.approx(row["curve"][:2], rel=1e-2)


def test_a_seed_gives_the_same_curve_again_and_another_seed_another() -> None:
    first, again, other = measure(CELL, SHORT), measure(CELL, SHORT), measure({**CELL, "seed": 1}, SHORT)
    assert first == again
    assert first["curve"] != other["curve"]
    assert len(first["curve"]) == 3


def test_clipping_is_what_the_cell_says() -> None:
    unclipped = measure({**CELL, "clip": None}, SHORT)
    assert unclipped["curve"] != measure({**CELL, "clip": 1e-3}, SHORT)["curve"]
    assert unclipped["curve"] == measure({**CELL, "clip": 1e6}, SHORT)["curve"]


def test_only_the_norm_sets_the_two_models_of_a_kind_apart() -> None:
    for kind in ("rnn", "lstm", "gru"):
        plain, normalised = build(kind, "none", CONFIG), build(kind, "layer", CONFIG)
        assert plain.config.cell == normalised.config.cell == kind
        assert (plain.config.normalised, normalised.config.normalised) == (False, True)


def test_steps_are_counted_to_the_first_mean_below_the_threshold() -> None:
    assert steps_to([5.0, 3.0, 2.7, 2.8], {"every": 25}) == 75
    assert steps_to([5.0, 3.0], {"every": 25}) is None


def test_quick_runs_leave_their_results_and_a_figure(folders: Folders) -> None:
    assert len(run(folders, quick=True)) == 8
    assert (folders.figures / "recurrent.png").stat().st_size > 10_000
    assert len(step_time.run(folders, quick=True)) == 6
    for row in read_results("step-time", folders.results)["steps"]:
        assert row["quartiles"][0] <= row["ratio"] <= row["quartiles"][1]
        assert row["seconds"]["layer"] > 0
