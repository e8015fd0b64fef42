"""Whose output a sub-layer's output is made of: the summands add up, and the committed figures are the code's."""

from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.folders import Folders
from experiments.layer_dependency import decompose, dependency, run
from experiments.results import read_results
from models.transformer import TransformerConfig, TransformerLM

ROOT = Path(__file__).parents[2]


def language_model(placement: Any) -> tuple[TransformerLM, torch.Tensor]:
    """Of three layers, its norms with gains and biases of their own, and what its first sub-layer reads."""
    torch.manual_seed(0)
    config = TransformerConfig(placement, causal=True, d_model=16, n_heads=2, d_ff=32, n_layers=3)
    model = TransformerLM(11, config).double()
    with torch.no_grad():
        for residual in model.encoder.residuals():
            torch.nn.init.normal_(residual.norm.weight, 1, 0.3)  # type: ignore[arg-type]
            torch.nn.init.normal_(residual.norm.bias, 0, 0.3)  # type: ignore[arg-type]
        return model, model.embed(torch.randint(11, (2, 5)))


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_the_summands_add_up_to_what_the_encoder_computes(placement: str) -> None:
    model, x = language_model(placement)
    rows = decompose(model, x)
    assert [len(summands) for _, summands, _ in rows] == [2, 3, 4, 5, 6, 7]
    torch.testing.assert_close(rows[-1][0], model.encoder.layers(x))
    for x_i, summands, biases in rows:
        torch.testing.assert_close(sum(summands) + biases, x_i)


def test_a_branch_that_gives_nothing_has_no_part_in_what_follows() -> None:
    model, x = language_model("post")
    silent = model.encoder.residuals()[3].sublayer.linear2  # the second feed-forward
    torch.nn.init.zeros_(silent.weight)
    torch.nn.init.zeros_(silent.bias)
    beta = dependency(model, x)["beta"]
    assert beta[3][4] == beta[5][4] == 0
    assert beta[2][3] > 0


def test_the_committed_rows_of_squares_sum_to_about_1_at_initialisation() -> None:
    placements = read_results("layer-dependency", ROOT / "experiments" / "results")["placements"]
    for both in placements.values():
        assert both["initial"]["sums_of_squares"] == pytest.approx([1.0] * 12, abs=0.15)
        assert [len(row) for row in both["trained"]["beta"]] == list(range(2, 14))


def test_a_run_measures_the_committed_figures_and_draws_them(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert len(run(folders, quick=True)) == 4
    fresh = read_results("layer-dependency", folders.results)["placements"]
    committed = read_results("layer-dependency", ROOT / "experiments" / "results")["placements"]
    for placement, when in (("post", "initial"), ("pre", "trained")):
        assert fresh[placement][when]["beta"][-1] == pytest.approx(committed[placement][when]["beta"][-1], rel=1e-6)
    assert (folders.figures / "layer-dependency.png").stat().st_size > 10_000
