"""``layer-dependency``: how much each sub-layer's output x_i owes to each earlier branch a_j (Liu et al. 2020, 4.1)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.character_lm import training_of
from experiments.figures import LABELS, new_figure, save_figure
from experiments.folders import COMMITTED, Folders
from experiments.results import write_results
from export.catalog import CATALOG
from export.checkpoint import load_checkpoint
from export.topics import held_out_topics
from models.transformer import NORM_EPS, PreLNResidual, TransformerLM
from service.manifest import WEIGHTS_FILE

NAME = "layer-dependency"
MODELS = {"post": "post-ln-charlm", "pre": "pre-ln-charlm"}
ROWS = 16


def normalised(component: Tensor, b: Tensor, gain: Tensor) -> Tensor:
    """The share of LN(b) that a summand of b has, without LN's bias: gain (c - mean c) / sigma_b, (N, T, D)."""
    sigma = (b.var(dim=-1, unbiased=False, keepdim=True) + NORM_EPS).sqrt()
    return gain * (component - component.mean(dim=-1, keepdim=True)) / sigma


@torch.no_grad()
def decompose(model: TransformerLM, x: Tensor) -> list[tuple[Tensor, list[Tensor], Tensor]]:
    """For each sub-layer x_i (N, T, D), its summands (of a_0 = x_0, a_1, ..., a_i), and what the norms' biases left.

    Summands and biases add up to x_i. x: what the first sub-layer reads, (N, T, D).
    """
    summands, biases = [x], torch.zeros_like(x)
    rows = []
    for residual in model.encoder.residuals():
        norm = residual.norm
        if isinstance(residual, PreLNResidual):
            branch = residual.sublayer(norm(x))
            summands = [*summands, branch]
        else:
            branch = residual.sublayer(x)
            b = x + branch
            summands = [normalised(summand, b, norm.weight) for summand in (*summands, branch)]  # type: ignore[arg-type]
            biases = normalised(biases, b, norm.weight) + norm.bias  # type: ignore[arg-type,operator]
        x = residual(x)
        rows.append((x, summands, biases))
    return rows


@torch.no_grad()
def std(x: Tensor) -> float:
    """The standard deviation over the features, its square averaged over all tokens."""
    return float(x.var(dim=-1, unbiased=False).mean().sqrt())


def dependency(model: TransformerLM, x: Tensor) -> dict[str, Any]:
    """beta[i][j] = std of a_j's summand in x_i / std of x_i, for j from 0; and each row's sum of squares.

    The sum is 1 where summands are uncorrelated, as they are at initialisation.
    """
    beta = []
    for x_i, summands, biases in decompose(model, x):
        torch.testing.assert_close(sum(summands) + biases, x_i, rtol=1e-8, atol=1e-8)
        beta.append([std(summand) / std(x_i) for summand in summands])
    return {"beta": beta, "sums_of_squares": [sum(value**2 for value in row) for row in beta]}


def run(folders: Folders, *, quick: bool) -> list[str]:
    """Both placements, at initialisation and as the committed models were trained. Quick is no quicker."""
    del quick
    ids = torch.from_numpy(held_out_topics().inputs["ids"][:ROWS])
    found: dict[str, dict[str, Any]] = {}
    for placement, name in MODELS.items():
        torch.manual_seed(training_of(name).seed)
        model = CATALOG[name].build()
        assert isinstance(model, TransformerLM)  # noqa: S101  # for the type checker: MODELS names no other
        initial = dependency(model.double(), model.embed(ids))
        model.float()
        load_checkpoint(model, COMMITTED.artifacts / name / CATALOG[name].version / WEIGHTS_FILE)
        found[placement] = {"initial": initial, "trained": dependency(model.double(), model.embed(ids))}
    write_results(NAME, {"rows": ROWS, "models": MODELS, "placements": found}, folders.results)
    draw(found, folders.figures)
    return [
        f"{LABELS[placement]}, {when}: mean of the diagonal beta_ii "
        f"{sum(row[-1] for row in part['beta']) / len(part['beta']):.3f}, last {part['beta'][-1][-1]:.3f}; "
        f"sums of squares {min(part['sums_of_squares']):.2f} to {max(part['sums_of_squares']):.2f}"
        for placement, both in found.items()
        for when, part in both.items()
    ]


def draw(found: dict[str, dict[str, Any]], folder: Path) -> Path:
    """``layer-dependency.png``: the triangles, rows x_i, columns a_j; a_0 is left out, as in the paper."""
    figure = new_figure(9, 8)
    panels = figure.subplots(2, 2)
    highest = max(
        value for both in found.values() for part in both.values() for row in part["beta"] for value in row[1:]
    )
    for (placement, both), row_of_panels in zip(found.items(), panels, strict=True):
        for (when, part), axes in zip(both.items(), row_of_panels, strict=True):
            beta = part["beta"]
            square = [[*row[1:], *[float("nan")] * (len(beta) - len(row) + 1)] for row in beta]
            image = axes.imshow(square, cmap="Blues", vmin=0, vmax=highest)
            axes.set_title(f"{LABELS[placement]}, {'at initialisation' if when == 'initial' else 'trained'}")
            axes.set_xticks(range(len(beta)), [f"$a_{{{j + 1}}}$" for j in range(len(beta))], fontsize=7)
            axes.set_yticks(range(len(beta)), [f"$x_{{{i + 1}}}$" for i in range(len(beta))], fontsize=7)
            axes.set_xlabel("residual branch")
            axes.set_ylabel("output of sub-layer")
    figure.colorbar(image, ax=panels, label="dependency beta", shrink=0.6)
    caption = (
        "beta: standard deviation of the branch's share of x_i, divided by that of x_i. Character LMs of 6 layers (12 "
        f"sub-layers, odd: attention);\n{ROWS} windows of held-out pydoc_data.topics."
    )
    return save_figure(figure, NAME, caption, folder)
