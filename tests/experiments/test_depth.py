"""The depth grid: what a cell measures, and that the committed cells are those of the code."""

from pathlib import Path

import numpy as np
import pytest

from experiments.cells import cells_of
from experiments.depth import AXES, CONFIG, draw, measure, summary, unigram_entropy
from experiments.results import read_results
from export.topics import topics

ROOT = Path(__file__).parents[2]
CELL = {"seed": 0, "learning_rate": 1e-3, "warm_up": 0, "depth": 2, "placement": "admin"}
SHORT = {**CONFIG, "steps": 4, "final_steps": 2}


def test_the_grid_has_every_combination_once() -> None:
    cells = cells_of(AXES)
    assert len(cells) == len({tuple(cell.items()) for cell in cells}) == 4 * 2 * 2 * 3 * 3


def test_the_same_cell_gives_the_same_losses_and_another_seed_others() -> None:
    first, again, other = measure(CELL, SHORT), measure(CELL, SHORT), measure({**CELL, "seed": 1}, SHORT)
    assert first == again
    assert first["loss"] != other["loss"]


def test_a_loss_is_in_nats_and_a_model_that_has_hardly_trained_has_failed() -> None:
    found = measure(CELL, SHORT)
    assert found["curve"][-1] == pytest.approx(found["loss"], abs=1e-4)
    assert 3 < found["loss"] < 6  # about log of the number of characters, 4.6
    assert found["failed"]


def test_a_training_that_leaves_the_numbers_has_failed_and_stops() -> None:
    found = measure({**CELL, "placement": "pre", "learning_rate": 1e30}, SHORT)
    assert not found["finite"]
    assert found["failed"]


def test_the_entropy_is_that_of_the_texts_characters() -> None:
    _, counts = np.unique(topics().train_ids, return_counts=True)
    share = counts / counts.sum()
    assert unigram_entropy() == pytest.approx(-(share * np.log(share)).sum())


def test_the_committed_cells_are_of_this_config_and_grid_and_their_figure_can_be_drawn(tmp_path: Path) -> None:
    results = read_results("depth", ROOT / "experiments" / "results")
    assert results["config"] == CONFIG
    assert results["dataset_sha256"] == topics().sha256
    assert [row["cell"] for row in results["cells"]] == cells_of(AXES)
    assert len(summary(results["cells"])) == 3
    assert draw(results["cells"], CONFIG, tmp_path).stat().st_size > 10_000
