"""How far weights move the output: the change is what it says, the fits find the law, the committed cells are these."""

from pathlib import Path

import numpy as np
import pytest

from experiments.output_change import CONFIG, draw, fits, means, measure
from experiments.results import read_results

ROOT = Path(__file__).parents[2]
CELL = {"seed": 0, "sublayers": 4, "placement": "admin", "change": "random"}


def test_the_fits_tell_a_line_from_a_logarithm() -> None:
    sublayers = [2, 4, 8, 16, 32, 64]
    line = fits(sublayers, [3.0 * n for n in sublayers])
    assert line["power"] == pytest.approx(1)
    assert line["linear"] == pytest.approx(1)
    assert line["logarithmic"] < 0.9
    logarithm = fits(sublayers, [float(np.log(n)) for n in sublayers])
    assert logarithm["logarithmic"] == pytest.approx(1)
    assert logarithm["linear"] < 0.9


@pytest.mark.parametrize("change", ["random", "gradient"])
def test_a_step_ten_times_as_large_moves_the_output_a_hundred_times_as_far_squared(change: str) -> None:
    cell = {**CELL, "change": change}
    ten_times = {**CONFIG, "random_step": 1e-5, "gradient_step": 1e-5}
    small = measure(cell, {**ten_times, "random_step": 1e-6, "gradient_step": 1e-6})["loss"]
    assert measure(cell, ten_times)["loss"] == pytest.approx(100 * small, rel=0.05)


def test_no_step_moves_nothing() -> None:
    assert measure(CELL, {**CONFIG, "random_step": 0.0})["loss"] == 0


def test_the_committed_cells_are_what_the_code_measures_and_can_be_drawn(tmp_path: Path) -> None:
    results = read_results("output-change", ROOT / "experiments" / "results")
    assert results["config"] == CONFIG
    (committed,) = (row["loss"] for row in results["cells"] if row["cell"] == CELL)
    assert measure(CELL, CONFIG)["loss"] == pytest.approx(committed, rel=1e-6)
    assert draw(results["cells"], CONFIG, tmp_path).stat().st_size > 10_000


def test_post_ln_moves_most_in_deep_models() -> None:
    rows = read_results("output-change", ROOT / "experiments" / "results")["cells"]
    for change in ("random", "gradient"):
        deepest = {placement: means(rows, placement, change)[1][-1] for placement in ("post", "pre", "admin")}
        assert deepest["post"] > 3 * deepest["pre"]
        assert deepest["admin"] == pytest.approx(deepest["pre"], rel=0.2)
