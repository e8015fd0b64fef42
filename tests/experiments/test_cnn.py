"""Five normalisations of a CNN: what a cell measures, and how its interval is taken."""

from pathlib import Path

import pytest

from experiments.cells import cells_of
from experiments.cnn import AXES, CONFIG, interval, measure, run, summary
from experiments.folders import Folders
from experiments.results import read_results
from export.held_out import digits

ROOT = Path(__file__).parents[2]
COMMITTED = read_results("cnn", ROOT / "experiments" / "results")


def test_the_committed_cells_are_the_whole_grid() -> None:
    assert COMMITTED["config"] == CONFIG
    assert COMMITTED["dataset_sha256"] == digits().sha256
    assert [row["cell"] for row in COMMITTED["cells"]] == cells_of(AXES)
    assert len(summary(COMMITTED["cells"])) == len(AXES["batch_size"]) * len(AXES["norm"])


@pytest.mark.parametrize("norm", AXES["norm"])
def test_the_committed_curves_are_what_the_code_measures(norm: str) -> None:
    cell = {"seed": 1, "batch_size": 128, "norm": norm}
    committed = next(row for row in COMMITTED["cells"] if row["cell"] == cell)
    found = measure(cell, {**CONFIG, "epochs": 1})["curves"]
    for key in ("loss", "nll"):
        assert found[key][0] == pytest.approx(committed["curves"][key][0], rel=1e-2)


def test_the_interval_is_students() -> None:
    # mean 3, standard deviation sqrt(2.5); t of four degrees of freedom at 97.5 %: 2.776 in any table
    mean, half = interval([1, 2, 3, 4, 5])
    assert mean == 3
    assert half == pytest.approx(2.776 * (2.5 / 5) ** 0.5, rel=1e-3)


def test_a_quick_run_leaves_a_figure(folders: Folders) -> None:
    assert len(run(folders, quick=True)) == 5
    assert (folders.figures / "cnn.png").stat().st_size > 10_000
