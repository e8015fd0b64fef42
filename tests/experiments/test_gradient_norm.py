"""Gradients at initialisation: what is measured is the gradient, and the committed figures are the code's."""

from pathlib import Path

import numpy as np
import pytest

from experiments.folders import Folders
from experiments.gradient_norm import CONFIG, gradient_norms, run, slope
from experiments.results import read_results

ROOT = Path(__file__).parents[2]


def test_there_is_a_norm_a_layer_and_a_seed_gives_it_again() -> None:
    first, again, other = (gradient_norms("pre", 3, seed, CONFIG) for seed in (0, 0, 1))
    assert len(first) == 3
    assert first == again != other


def test_the_slope_is_that_of_a_power_of_the_depth() -> None:
    depths = [2, 4, 8, 16]
    assert slope(depths, [5 * depth**-0.5 for depth in depths]) == pytest.approx(-0.5)
    assert slope(depths, [3.0] * 4) == pytest.approx(0)


def test_the_committed_figures_are_what_the_code_measures() -> None:
    results = read_results("gradient-norm", ROOT / "experiments" / "results")
    assert results["config"] == CONFIG
    for placement, found in results["placements"].items():
        shallow = [gradient_norms(placement, 2, seed, CONFIG)[-1] for seed in CONFIG["seeds"]]
        assert found["last_layer"][0] == pytest.approx(np.mean(shallow), rel=1e-4)


def test_a_quick_run_leaves_results_and_a_figure(folders: Folders) -> None:
    lines = run(folders, quick=True)
    assert len(lines) == len(read_results("gradient-norm", folders.results)["placements"]) == 2
    assert (folders.figures / "gradient-norm.png").stat().st_size > 10_000
