"""LayerNorm and BatchNorm by batch size: what a cell measures, and what the committed cells show."""

from pathlib import Path

import numpy as np
import pytest

from experiments.batch_size import AXES, CONFIG, measure, run, summary
from experiments.cells import cells_of
from experiments.folders import Folders
from experiments.results import read_results
from export.held_out import digits

ROOT = Path(__file__).parents[2]
COMMITTED = read_results("batch-size", ROOT / "experiments" / "results")
ONE_EPOCH = {**CONFIG, "epochs": 1}


def last_nll(batch_size: int, norm: str) -> list[float]:
    wanted = {"batch_size": batch_size, "norm": norm}
    return [row["curves"]["nll"][-1] for row in COMMITTED["cells"] if wanted.items() <= row["cell"].items()]


def test_the_committed_cells_are_the_whole_grid() -> None:
    assert COMMITTED["config"] == CONFIG
    assert COMMITTED["dataset_sha256"] == digits().sha256
    assert [row["cell"] for row in COMMITTED["cells"]] == cells_of(AXES)


@pytest.mark.parametrize("norm", AXES["norm"])
def test_the_committed_curves_are_what_the_code_measures(norm: str) -> None:
    cell = {"seed": 1, "batch_size": 128, "norm": norm}
    committed = next(row for row in COMMITTED["cells"] if row["cell"] == cell)
    for key, curve in measure(cell, ONE_EPOCH)["curves"].items():
        assert curve[0] == pytest.approx(committed["curves"][key][0], rel=1e-3)


def test_batch_norm_refuses_a_batch_of_one_and_layer_norm_takes_it() -> None:
    refused = measure({"seed": 0, "batch_size": 1, "norm": "batch"}, ONE_EPOCH)
    assert refused["loss"] is None
    assert "more than 1 value" in refused["refused"]
    assert measure({"seed": 0, "batch_size": 1, "norm": "layer"}, ONE_EPOCH)["curves"]["accuracy"][0] > 0.8


def test_the_summary_has_a_line_for_every_batch_size_and_norm() -> None:
    lines = summary(COMMITTED["cells"])
    assert len(lines) == len(AXES["batch_size"]) * len(AXES["norm"])
    (refusal,) = [line for line in lines if "refused" in line]
    assert refusal.startswith("batch 1, BatchNorm")
    assert f"{np.mean(last_nll(4, 'layer')):.4f}" in next(line for line in lines if line.startswith("batch 4, LayerN"))


def test_a_quick_run_leaves_a_figure(folders: Folders) -> None:
    assert len(run(folders, quick=True)) == 4
    assert (folders.figures / "batch-size.png").stat().st_size > 10_000
