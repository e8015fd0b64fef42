"""Table 1 of Ba et al.: every cell is as printed, and the changes really change something."""

from pathlib import Path

import pytest
import torch

from experiments.folders import Folders
from experiments.invariance import CHANGES, PRINTED, TOLERANCE, measure, run
from experiments.results import read_results

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("method", PRINTED)
def test_every_cell_is_as_printed(method: str) -> None:
    assert tuple(change <= TOLERANCE for change in measure()[method].values()) == PRINTED[method]


def test_a_cell_is_kept_or_clearly_broken_never_in_between() -> None:
    changes = [change for row in measure().values() for change in row.values()]
    assert len(changes) == 18
    assert all(change < 1e-12 or change > 1e-2 for change in changes)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_changes_weights_or_data_and_not_both(name: str) -> None:
    x, weight, gamma = torch.rand(5, 4).double(), torch.rand(3, 4).double(), torch.rand(4).double()
    changed_x, changed_weight = CHANGES[name](x, weight, gamma)
    assert torch.equal(changed_x, x) != torch.equal(changed_weight, weight)


def test_the_committed_results_are_of_this_code() -> None:
    committed = read_results("invariance", ROOT / "experiments" / "results")["largest_relative_change"]
    for method, row in measure().items():
        assert committed[method] == pytest.approx(row, rel=1e-6, abs=TOLERANCE)


def test_a_run_leaves_results_and_a_figure(folders: Folders) -> None:
    assert run(folders, quick=True) == ["18 of 18 cells are as table 1 of Ba et al. prints them"]
    assert (folders.figures / "invariance.png").stat().st_size > 10_000
