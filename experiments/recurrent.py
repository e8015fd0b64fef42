"""``recurrent``: RNN, LSTM and GRU with and without LayerNorm as character LMs (Ba et al. 2016, section 6)."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from experiments.cells import Cell, Row, cells_of, grouped, run_cells
from experiments.figures import LABELS, draw_seeds, new_figure, save_figure
from experiments.folders import Folders
from experiments.language_model import held_out_bits, next_character_loss
from experiments.windows import windows
from export.topics import ALPHABET, topics
from models.recurrent import RecurrentConfig, RecurrentLM

NAME = "recurrent"
KINDS = ("rnn", "lstm", "gru")
LENGTHS = (100, 400)
CONFIG: dict[str, Any] = {
    "embedding_size": 64,
    "hidden_size": 128,
    "batch_size": 8,
    "learning_rate": 2e-3,
    "steps": 1500,
    "every": 25,  # steps that a point of the curve is the mean of
}
SEEDS = (0, 1, 2)
THRESHOLD = 2.75  # bits per character


def cells(seeds: tuple[int, ...] = SEEDS, lengths: tuple[int, ...] = LENGTHS) -> list[Cell]:
    """All kinds with gradients clipped at a norm of 1, and the RNN without clipping too; seeds outermost."""
    found = []
    for seed in seeds:
        axes = {"seed": (seed,), "length": lengths, "clip": (1.0,), "kind": KINDS, "norm": ("none", "layer")}
        found += cells_of(axes) + cells_of({**axes, "clip": (None,), "kind": ("rnn",)})
    return found


def build(kind: Any, norm: str, config: dict[str, Any]) -> RecurrentLM:
    """A character LM of one recurrent layer."""
    sizes = {key: config[key] for key in ("embedding_size", "hidden_size")}
    return RecurrentLM(RecurrentConfig(kind, norm == "layer", len(ALPHABET), **sizes))


def measure(cell: Cell, config: dict[str, Any]) -> dict[str, Any]:
    """Train one model with Adam: held-out bits per character as ``loss``, and its training bits as they went."""
    torch.manual_seed(cell["seed"])
    model = build(cell["kind"], cell["norm"], config)
    ids = torch.from_numpy(topics().train_ids)
    optimizer = torch.optim.Adam(model.parameters(), config["learning_rate"])
    bits: list[float] = []
    for step in range(config["steps"]):
        x, y = windows(ids, cell["seed"], step, batch_size=config["batch_size"], length=cell["length"])
        loss = next_character_loss(model, x, y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), math.inf if cell["clip"] is None else cell["clip"])
        optimizer.step()
        bits.append(loss.item() / math.log(2))
    every = config["every"]
    curve = [round(float(np.mean(bits[i : i + every])), 4) for i in range(0, len(bits), every)]
    return {"loss": held_out_bits(model), "curve": curve}


def steps_to(curve: list[float], config: dict[str, Any]) -> int | None:
    """Steps until the mean over ``every`` of them is below the threshold; None if it never is."""
    below = (i for i, bits in enumerate(curve, start=1) if bits < THRESHOLD)
    return next((i * config["every"] for i in below), None)


def run(folders: Folders, *, quick: bool) -> list[str]:
    """Train every kind, norm, length and seed; draw the curves, and say where they end."""
    config = {**CONFIG, "steps": 20, "every": 5} if quick else CONFIG
    chosen = cells((0,), (20,)) if quick else cells()
    rows = run_cells(NAME, config, chosen, measure, folders, topics().sha256)
    draw(rows, config, folders.figures)
    return summary(rows, config)


def summary(rows: list[Row], config: dict[str, Any]) -> list[str]:
    """A line for each kind of training and norm: held-out bits and steps to the threshold, for every seed."""
    lines = []
    for title, of_panel in panels_of(rows):
        for norm, trained in grouped(of_panel, "norm"):
            bits = [row["loss"] for row in trained]
            steps = ", ".join(str(steps_to(row["curve"], config) or "never") for row in trained)
            lines.append(
                f"{title}, {LABELS[norm]}: held-out {np.mean(bits):.3f} bits "
                f"({min(bits):.3f} to {max(bits):.3f}), steps to {THRESHOLD:g} bits: {steps}"
            )
    return lines


def panels_of(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """The rows of each length, clipping and kind, under a title."""
    return [
        (f"{kind.upper()}, T = {length}" + ("" if clip else ", not clipped"), trained)
        for length, of_length in grouped(rows, "length")
        for clip, of_clip in grouped(of_length, "clip")
        for kind, trained in grouped(of_clip, "kind")
    ]


def draw(rows: list[Row], config: dict[str, Any], folder: Path) -> Path:
    """``recurrent.png``: training bits per character over the steps, a row a length, a column a kind of training."""
    figure = new_figure(12, 6.5)
    titled = panels_of(rows)
    lengths = len(grouped(rows, "length"))
    steps = range(config["every"], config["steps"] + 1, config["every"])
    panels = figure.subplots(lengths, len(titled) // lengths, sharex=True, sharey=True, squeeze=False)
    for axes, (title, of_panel) in zip(panels.flat, titled, strict=True):
        for norm, trained in grouped(of_panel, "norm"):
            draw_seeds(axes, steps, [row["curve"] for row in trained], norm)
        axes.axhline(THRESHOLD, color="grey", linestyle=":", linewidth=1)
        axes.set_title(title, fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("step")
    for axes in panels[:, 0]:
        axes.set_ylabel("training loss (bits per character)")
    panels[0][0].set_ylim(top=5)
    panels[0][0].legend(fontsize=8)
    caption = (
        f"Character LM (embedding {config['embedding_size']}, hidden {config['hidden_size']}) on pydoc_data.topics, "
        f"batch {config['batch_size']}, Adam {config['learning_rate']:g}, gradients clipped at 1 unless it says not;\n"
        f"lines: mean of {len(grouped(rows, 'seed'))} seed(s), bands: lowest to highest, a point every "
        f"{config['every']} steps; dotted: the threshold of {THRESHOLD:g} bits."
    )
    return save_figure(figure, NAME, caption, folder)
