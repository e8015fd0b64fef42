"""``depth``: which depths train, Post-LN, Pre-LN and Admin, with and without warm-up (Liu et al.; Xiong et al.)."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.cells import Cell, Row, cells_of, grouped, run_cells
from experiments.figures import COLOURS, LABELS, new_figure, save_figure
from experiments.folders import Folders
from experiments.language_model import next_character_loss, small_language_model
from experiments.windows import windows
from export.topics import ALPHABET, topics
from models.admin import profile_omega

NAME = "depth"
PLACEMENTS = ("post", "pre", "admin")
CONFIG = {
    "d_model": 64,
    "n_heads": 4,
    "d_ff": 256,
    "steps": 600,
    "batch_size": 32,
    "length": 32,
    "betas": [0.9, 0.98],
    "final_steps": 50,  # over which the final loss is a mean
    "failed_above": 0.9,  # of the text's entropy: what knowing how often each character comes is worth
}
AXES = {
    "seed": (0, 1, 2),  # outermost: a run that is cut short has whole grids
    "learning_rate": (1e-3, 3e-3),
    "warm_up": (0, 200),
    "depth": (6, 12, 18, 24),  # layers, each of two sub-layers
    "placement": PLACEMENTS,
}


def unigram_entropy() -> float:
    """In nats: the loss of a model that knows how often each character comes and nothing else."""
    frequency = np.bincount(topics().train_ids, minlength=len(ALPHABET)) / len(topics().train_ids)
    frequency = frequency[frequency > 0]
    return float(-(frequency * np.log(frequency)).sum())


def measure(cell: Cell, config: dict[str, Any]) -> dict[str, Any]:
    """Train one model; its loss (nats per character) as it went, and whether it failed."""
    torch.manual_seed(cell["seed"])
    ids = torch.from_numpy(topics().train_ids)
    model = small_language_model(cell["placement"], cell["depth"], config)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return windows(ids, cell["seed"], step, batch_size=config["batch_size"], length=config["length"])

    if cell["placement"] == "admin":
        profile_omega(model.encoder, model.embed(batch(0)[0]))
    optimizer = torch.optim.Adam(model.parameters(), cell["learning_rate"], tuple(config["betas"]))
    losses: list[float] = []
    finite = True
    for step in range(config["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = cell["learning_rate"] * min(1.0, (step + 1) / max(1, cell["warm_up"]))
        x, y = batch(step)
        loss = next_character_loss(model, x, y)
        if not (finite := math.isfinite(loss.item())):
            break
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    final = float(np.mean(losses[-config["final_steps"] :]))
    failed = not finite or final > config["failed_above"] * unigram_entropy()
    every = config["final_steps"]
    curve = [round(float(np.mean(losses[i : i + every])), 4) for i in range(0, len(losses), every)]
    return {"loss": final, "finite": finite, "failed": failed, "curve": curve}


def run(folders: Folders, *, quick: bool) -> list[str]:
    """Measure the grid, draw it, and say for each placement how many trainings failed at which depth."""
    axes = {**AXES, "depth": (2, 3), "seed": (0,)} if quick else AXES
    config = {**CONFIG, "steps": 20, "final_steps": 10} if quick else CONFIG
    rows = run_cells(NAME, config, cells_of(axes), measure, folders, topics().sha256)
    draw(rows, config, folders.figures)
    return summary(rows)


def summary(rows: list[Row]) -> list[str]:
    """A line for each placement: depth, and how many of its trainings failed."""
    lines = []
    for placement, of_placement in grouped(rows, "placement"):
        counts = [
            f"{depth} layers {sum(row['failed'] for row in trained)}/{len(trained)}"
            for depth, trained in grouped(of_placement, "depth")
        ]
        lines.append(f"{LABELS[placement]} failed: {', '.join(counts)}")
    return lines


def draw(rows: list[Row], config: dict[str, Any], folder: Path) -> Path:
    """``depth.png``: final loss against depth, a panel for each learning rate and warm-up."""
    figure = new_figure(9, 6.5)
    rates = [rate for rate, _ in grouped(rows, "learning_rate")]
    warm_ups = [warm_up for warm_up, _ in grouped(rows, "warm_up")]
    panels = figure.subplots(len(warm_ups), len(rates), sharex=True, sharey=True, squeeze=False)
    entropy = unigram_entropy()
    for (i, warm_up), (j, rate) in itertools.product(enumerate(warm_ups), enumerate(rates)):
        axes = panels[i][j]
        axes.axhline(entropy, color="grey", linestyle=":", linewidth=1, label="how often each character comes")
        axes.axhline(config["failed_above"] * entropy, color="grey", linestyle="--", linewidth=1, label="failed above")
        here = [row for row in rows if (row["cell"]["warm_up"], row["cell"]["learning_rate"]) == (warm_up, rate)]
        for shift, (placement, trained) in enumerate(grouped(here, "placement")):
            by_depth = grouped(trained, "depth")
            axes.plot(
                [depth for depth, _ in by_depth],
                [float(np.median([row["loss"] for row in found])) for _, found in by_depth],
                color=COLOURS[placement],
                label=LABELS[placement],
            )
            axes.scatter(
                [row["cell"]["depth"] + 0.25 * (shift - 1) for row in trained],
                [row["loss"] for row in trained],
                s=14,
                color=COLOURS[placement],
            )
        axes.set_title(f"learning rate {rate:g}, " + (f"warm-up {warm_up} steps" if warm_up else "no warm-up"))
        axes.set_xticks([depth for depth, _ in grouped(rows, "depth")])
        axes.set_ylabel("final loss (nats per character)" if j == 0 else "")
        axes.set_xlabel("depth (layers)" if i == len(warm_ups) - 1 else "")
    panels[0][0].legend(fontsize=8)
    seeds = len(grouped(rows, "seed"))
    caption = (
        f"Character LM of d_model {config['d_model']} on pydoc_data.topics, {config['steps']} steps of Adam without "
        f"clipping; dots: {seeds} seed(s), lines: their median;\nloss: mean of the last {config['final_steps']} steps."
    )
    return save_figure(figure, NAME, caption, folder)
