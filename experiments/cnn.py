"""``cnn``: five normalisations of a small CNN at batch 128 and 4 (Ba et al. 2016, section 6.7; Wu and He 2018)."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from experiments.cells import Cell, Row, cells_of, grouped, run_cells
from experiments.epochs import curves, epochs
from experiments.figures import COLOURS, LABELS, new_figure, save_figure
from experiments.folders import Folders
from export.held_out import digits
from models.convolutional import CNN, CNNConfig

NAME = "cnn"
CONFIG: dict[str, Any] = {
    "epochs": 30,
    "learning_rate": 0.05,  # at batch 128; in proportion to the batch, as in Wu and He 2018, section 4.1
    "momentum": 0.9,
}
REFERENCE_BATCH = 128
CONFIDENCE = 0.95
AXES = {
    "seed": (0, 1, 2, 3, 4),
    "batch_size": (128, 4),
    "norm": ("none", "batch", "group", "layer", "layer_per_pixel"),
}


def measure(cell: Cell, config: dict[str, Any]) -> dict[str, Any]:
    """Train one CNN with SGD; its curves."""
    torch.manual_seed(cell["seed"])
    model = CNN(CNNConfig(cell["norm"]))
    learning_rate = config["learning_rate"] * cell["batch_size"] / REFERENCE_BATCH
    optimizer = torch.optim.SGD(model.parameters(), learning_rate, config["momentum"])
    row_shape = (1, model.config.image_size, model.config.image_size)
    trained = epochs(model, optimizer, row_shape, seed=cell["seed"], batch_size=cell["batch_size"])
    found = curves(islice(trained, config["epochs"]))
    return {"loss": found["loss"][-1], "curves": found}


def interval(values: list[float]) -> tuple[float, float]:
    """The mean, and half the width of its confidence interval by Student's t."""
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values)), float(half)


def run(folders: Folders, *, quick: bool) -> list[str]:
    """Train every batch size, norm and seed; draw the curves and intervals, and say where they end."""
    config = {**CONFIG, "epochs": 1} if quick else CONFIG
    axes = {**AXES, "seed": (0, 1), "batch_size": (128,)} if quick else AXES
    rows = run_cells(NAME, config, cells_of(axes), measure, folders, digits().sha256)
    draw(rows, config, folders.figures)
    return summary(rows)


def summary(rows: list[Row]) -> list[str]:
    """A line for each batch size and norm: the last epoch's mean over the seeds with its interval."""
    lines = []
    for batch_size, of_size in grouped(rows, "batch_size"):
        for norm, trained in grouped(of_size, "norm"):
            error, nll = (interval(final(trained, key)) for key in ("error", "nll"))
            lines.append(
                f"batch {batch_size}, {LABELS[norm]}: error {error[0]:.2f} ± {error[1]:.2f} %, "
                f"NLL {nll[0]:.4f} ± {nll[1]:.4f}"
            )
    return lines


def final(trained: list[Row], key: str) -> list[float]:
    """Each seed's last held-out ``nll``, or its ``error`` in per cent."""
    if key == "error":
        return [100 * (1 - row["curves"]["accuracy"][-1]) for row in trained]
    return [row["curves"][key][-1] for row in trained]


def draw(rows: list[Row], config: dict[str, Any], folder: Path) -> Path:
    """``cnn.png``: training and held-out NLL after each epoch, and the last error with its interval, a row a batch."""
    figure = new_figure(11, 6.5)
    by_size = grouped(rows, "batch_size")
    panels = figure.subplots(len(by_size), 3, sharex="col", sharey="col", squeeze=False)
    steps = range(1, config["epochs"] + 1)
    for i, (batch_size, of_size) in enumerate(by_size):
        by_norm = grouped(of_size, "norm")
        for curve, axes in zip(("loss", "nll"), panels[i], strict=False):
            axes.set_yscale("log")
            for norm, trained in by_norm:
                mean = np.mean([row["curves"][curve] for row in trained], axis=0)
                axes.plot(steps, mean, color=COLOURS[norm], label=LABELS[norm])
        panels[i][0].set_ylabel(f"batch {batch_size}: training NLL (nats)")
        panels[i][1].set_ylabel("held-out NLL (nats)")
        errors = panels[i][2]
        for position, (norm, trained) in enumerate(by_norm):
            values = final(trained, "error")
            mean, half = interval(values)
            errors.errorbar(position, mean, half, fmt="o", color=COLOURS[norm], capsize=4)
            errors.scatter([position + 0.2] * len(values), values, s=8, color=COLOURS[norm], alpha=0.5)
        errors.set_xticks(range(len(by_norm)), [LABELS[norm] for norm, _ in by_norm], rotation=30, ha="right")
        errors.set_ylabel("held-out error (%)")
    for axes in panels[-1][:2]:
        axes.set_xlabel("epoch")
    panels[0][0].legend(fontsize=8)
    caption = (
        f"CNN 32-64-64 on scikit-learn's digits, SGD {config['learning_rate']:g} at batch {REFERENCE_BATCH} (in "
        f"proportion to the batch), momentum {config['momentum']:g};\n"
        f"lines: mean of {len(grouped(rows, 'seed'))} seeds; large dots: mean after the last epoch with its "
        f"{100 * CONFIDENCE:g} % confidence interval, small dots: seeds."
    )
    return save_figure(figure, NAME, caption, folder)
