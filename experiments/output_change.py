"""``output-change``: how far a small change of all weights moves the output (Liu et al. 2020, theorem 2, figure 4)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.cells import Cell, cells_of, run_cells
from experiments.figures import COLOURS, LABELS, new_figure, save_figure
from experiments.folders import Folders
from experiments.language_model import next_character_loss, small_language_model
from experiments.windows import windows
from export.topics import topics
from models.admin import profile_omega
from models.layer_norm import layer_norm
from models.transformer import TransformerLM

NAME = "output-change"
CHANGES = ("random", "gradient")
PLACEMENTS = ("post", "pre", "admin")
CONFIG: dict[str, Any] = {
    "d_model": 64,
    "n_heads": 4,
    "d_ff": 256,
    "depths": [1, 2, 4, 8, 16, 32, 64, 100],  # layers, each of two sub-layers
    "batch_size": 8,
    "length": 32,
    "random_step": 1e-4,  # times the sign of a normal number, for every weight
    "gradient_step": 1e-6,  # times the sign of the gradient
}
SEEDS = tuple(range(5))


def weights_of(model: TransformerLM) -> list[Tensor]:
    """The matrices, embedding included: no bias, norm or omega moves."""
    return [parameter for parameter in model.parameters() if parameter.dim() == 2]


def output(model: TransformerLM, ids: Tensor) -> Tensor:
    """What the last sub-layer leaves, normalised once more without gain: the same scale for every placement."""
    return layer_norm(model.encoder(model.embed(ids)), [model.config.d_model])


def measure(cell: Cell, config: dict[str, Any]) -> dict[str, Any]:
    """The mean squared distance, for each token, between the outputs before and after the change, in float64."""
    torch.manual_seed(cell["seed"])
    model = small_language_model(cell["placement"], cell["sublayers"] // 2, config).double()
    ids = torch.from_numpy(topics().train_ids)
    x, y = windows(ids, cell["seed"], 0, batch_size=config["batch_size"], length=config["length"])
    if cell["placement"] == "admin":
        profile_omega(model.encoder, model.embed(x))
    with torch.no_grad():
        before = output(model, x)
    if cell["change"] == "gradient":
        next_character_loss(model, x, y).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for weight in weights_of(model):
            direction = torch.randn_like(weight) if cell["change"] == "random" else weight.grad
            if direction is not None:
                weight -= config[f"{cell['change']}_step"] * direction.sign()
        return {"loss": float((output(model, x) - before).square().sum(dim=-1).mean())}


def run(folders: Folders, *, quick: bool) -> list[str]:
    """Measure every depth, placement, change and seed; draw the means, and fit both laws to them."""
    config = {**CONFIG, "depths": [1, 2, 4]} if quick else CONFIG
    seeds = SEEDS[:1] if quick else SEEDS
    sublayers = tuple(2 * depth for depth in config["depths"])
    axes = {"seed": seeds, "sublayers": sublayers, "placement": PLACEMENTS, "change": CHANGES}
    rows = run_cells(NAME, config, cells_of(axes), measure, folders)
    draw(rows, config, folders.figures)
    lines = []
    for change in CHANGES:
        for placement in PLACEMENTS:
            found = fits(*means(rows, placement, change))
            lines.append(
                f"{change}, {LABELS[placement]}: ~ N^{found['power']:.2f}; "
                f"R2 {found['linear']:.3f} linear in N, {found['logarithmic']:.3f} linear in log N"
            )
    return lines


def means(rows: list[dict[str, Any]], placement: str, change: str) -> tuple[list[int], list[float]]:
    """Numbers of sub-layers, and the mean over seeds of what was measured there."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if (row["cell"]["placement"], row["cell"]["change"]) == (placement, change):
            found.setdefault(row["cell"]["sublayers"], []).append(row["loss"])
    return list(found), [float(np.mean(values)) for values in found.values()]


def fits(sublayers: list[int], moved: list[float]) -> dict[str, float]:
    """The power of N that fits best, and R2 of a line through (N, moved) and through (log N, moved)."""
    return {
        "power": float(np.polyfit(np.log(sublayers), np.log(moved), 1)[0]),
        "linear": float(np.corrcoef(sublayers, moved)[0, 1] ** 2),
        "logarithmic": float(np.corrcoef(np.log(sublayers), moved)[0, 1] ** 2),
    }


def draw(rows: list[dict[str, Any]], config: dict[str, Any], folder: Path) -> Path:
    """``output-change.png``: a row for each change, all placements on a linear axis, two of them on a log axis."""
    figure = new_figure(9, 7)
    panels = figure.subplots(len(CHANGES), 2)
    for (linear, logarithmic), change in zip(panels, CHANGES, strict=True):
        for placement in PLACEMENTS:
            sublayers, moved = means(rows, placement, change)
            style = {"color": COLOURS[placement], "label": LABELS[placement], "marker": "."}
            linear.plot(sublayers, moved, **style)
            if placement != "post":
                logarithmic.plot(sublayers, moved, **style)
        logarithmic.set_xscale("log", base=2)
        logarithmic.set_xlabel("sub-layers N (log axis)")
        linear.set_xlabel("sub-layers N")
        linear.set_ylabel(f"|F(x, W) - F(x, W')|² per token, {change}")
        linear.legend(fontsize=8)
        logarithmic.legend(fontsize=8)
    seeds = len({row["cell"]["seed"] for row in rows})
    caption = (
        f"At initialisation, d_model {config['d_model']}, float64, mean over {seeds} seed(s). Outputs are normalised "
        f"before they are compared.\nrandom: every weight moves by {config['random_step']:g} up or down; "
        f"gradient: by {config['gradient_step']:g} against the sign of its gradient."
    )
    return save_figure(figure, NAME, caption, folder)
