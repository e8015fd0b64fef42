"""``batch-size``: LayerNorm and BatchNorm at batch 128, 4, 2 and 1 (Ba et al. 2016, section 6.6, figure 6)."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.cells import Cell, Row, cells_of, grouped, run_cells
from experiments.epochs import curves, epochs
from experiments.figures import LABELS, draw_seeds, new_figure, save_figure
from experiments.folders import Folders
from export.held_out import digits
from models.mlp import MLP, MLPConfig

NAME = "batch-size"
CONFIG: dict[str, Any] = {"hidden_sizes": [256, 256], "epochs": 30, "learning_rate": 1e-3}
AXES = {"seed": (0, 1, 2, 3, 4), "batch_size": (128, 4, 2, 1), "norm": ("layer", "batch")}
CURVES = {"loss": "training NLL (nats)", "nll": "held-out NLL (nats)"}


def measure(cell: Cell, config: dict[str, Any]) -> dict[str, Any]:
    """Train one MLP with Adam: its curves, or why it cannot be trained."""
    torch.manual_seed(cell["seed"])
    model = MLP(MLPConfig(cell["norm"], hidden_sizes=tuple(config["hidden_sizes"])))
    optimizer = torch.optim.Adam(model.parameters(), config["learning_rate"])
    trained = epochs(model, optimizer, (model.config.input_size,), seed=cell["seed"], batch_size=cell["batch_size"])
    try:
        found = curves(islice(trained, config["epochs"]))
    except ValueError as refusal:  # torch's BatchNorm, of a batch of one
        return {"loss": None, "refused": str(refusal)}
    return {"loss": found["loss"][-1], "curves": found}


def run(folders: Folders, *, quick: bool) -> list[str]:
    """Train every batch size, norm and seed; draw the curves, and say where they end."""
    config = {**CONFIG, "epochs": 2} if quick else CONFIG
    axes = {**AXES, "seed": (0, 1), "batch_size": (128, 1)} if quick else AXES
    rows = run_cells(NAME, config, cells_of(axes), measure, folders, digits().sha256)
    draw(rows, config, folders.figures)
    return summary(rows)


def summary(rows: list[Row]) -> list[str]:
    """A line for each batch size and norm: the last epoch's mean over the seeds, and the lowest and highest."""
    lines = []
    for batch_size, of_size in grouped(rows, "batch_size"):
        for norm, trained in grouped(of_size, "norm"):
            head = f"batch {batch_size}, {LABELS[norm]}: "
            if "refused" in trained[0]:
                lines.append(head + f"refused: {trained[0]['refused']}")
                continue
            nll, accuracy = ([row["curves"][key][-1] for row in trained] for key in ("nll", "accuracy"))
            lines.append(
                head + f"held-out NLL {np.mean(nll):.4f} ({min(nll):.4f} to {max(nll):.4f}), "
                f"accuracy {np.mean(accuracy):.4f} ({min(accuracy):.4f} to {max(accuracy):.4f})"
            )
    return lines


def draw(rows: list[Row], config: dict[str, Any], folder: Path) -> Path:
    """``batch-size.png``: NLL after each epoch, a column for each batch size, training above held-out."""
    figure = new_figure(11, 6)
    by_size = grouped(rows, "batch_size")
    panels = figure.subplots(len(CURVES), len(by_size), sharex=True, sharey="row", squeeze=False)
    steps = range(1, config["epochs"] + 1)
    for j, (batch_size, of_size) in enumerate(by_size):
        panels[0][j].set_title(f"batch {batch_size}")
        panels[-1][j].set_xlabel("epoch")
        for i, (curve, label) in enumerate(CURVES.items()):
            axes = panels[i][j]
            axes.set_yscale("log")
            axes.set_ylabel(label if j == 0 else "")
            for norm, trained in grouped(of_size, "norm"):
                if "refused" in trained[0]:
                    axes.text(0.5, 0.9, f"{LABELS[norm]} refuses", transform=axes.transAxes, ha="center", fontsize=9)
                    continue
                draw_seeds(axes, steps, [row["curves"][curve] for row in trained], norm)
    panels[0][0].legend(fontsize=8)
    sizes = "-".join(map(str, (64, *config["hidden_sizes"], 10)))
    caption = (
        f"MLP {sizes} on scikit-learn's digits, norm before each ReLU, Adam {config['learning_rate']:g}; lines: mean "
        f"of {len(grouped(rows, 'seed'))} seeds, bands: lowest to highest.\nTraining NLL is taken in training mode: "
        "BatchNorm's with the batch's own statistics."
    )
    return save_figure(figure, NAME, caption, folder)
