"""``invariance``: table 1 of Ba et al. 2016, measured: which changes of weights or data leave the output as it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.figures import new_figure, save_figure
from experiments.folders import Folders
from experiments.results import write_results
from models.layer_norm import layer_norm

NAME = "invariance"
ROWS, INPUTS, UNITS = 32, 20, 16
SCALE, SHIFT = 3.0, 0.7  # delta > 0: a negative one turns the sign
TOLERANCE = 1e-6  # relative to the largest output
SEED = 0

Change = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def batch_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Each unit of W x normalised over the batch, as in training, without epsilon: (N, D), (H, D) -> (N, H)."""
    a = x @ weight.T
    return (a - a.mean(dim=0)) / a.std(dim=0, correction=0)


def weight_norm(x: Tensor, weight: Tensor) -> Tensor:
    """W x with each weight vector divided by its length (Salimans and Kingma 2016): (N, D), (H, D) -> (N, H)."""
    lengths: Tensor = weight.norm(dim=1, keepdim=True)
    return x @ (weight / lengths).T


def layer_normalised(x: Tensor, weight: Tensor) -> Tensor:
    """W x normalised over the units, without epsilon: (N, D), (H, D) -> (N, H)."""
    return layer_norm(x @ weight.T, [len(weight)], eps=0.0)


METHODS = {"batch norm": batch_norm, "weight norm": weight_norm, "layer norm": layer_normalised}


def _only(index: int, count: int) -> Tensor:
    """(count, 1): SCALE at ``index``, 1 elsewhere."""
    factor = torch.ones(count, 1, dtype=torch.float64)
    factor[index] = SCALE
    return factor


# (x, W, gamma) -> the changed (x, W); gamma (D,) is a vector of the input's size.
CHANGES: dict[str, Change] = {
    "weight matrix re-scaling": lambda x, weight, _: (x, SCALE * weight),
    "weight matrix re-centring": lambda x, weight, gamma: (x, weight + gamma),
    "weight vector re-scaling": lambda x, weight, _: (x, _only(0, len(weight)) * weight),
    "dataset re-scaling": lambda x, weight, _: (SCALE * x, weight),
    "dataset re-centring": lambda x, weight, gamma: (x + gamma, weight),
    "single case re-scaling": lambda x, weight, _: (_only(0, len(x)) * x, weight),
}

# Table 1. Its text calls weight norm invariant to re-scaling the data set, the table does not; its output scales along.
PRINTED = {
    "batch norm": (True, False, True, True, True, False),
    "weight norm": (True, False, True, False, False, False),
    "layer norm": (True, True, False, True, False, True),
}


def measure() -> dict[str, dict[str, float]]:
    """For each method and change the largest difference of an output, relative to the largest output."""
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(ROWS, INPUTS, generator=generator, dtype=torch.float64)
    weight = torch.randn(UNITS, INPUTS, generator=generator, dtype=torch.float64)
    gamma = SHIFT * torch.randn(INPUTS, generator=generator, dtype=torch.float64)
    found: dict[str, dict[str, float]] = {}
    for method, normalise in METHODS.items():
        before = normalise(x, weight)
        found[method] = {
            name: float((normalise(*change(x, weight, gamma)) - before).abs().max() / before.abs().max())
            for name, change in CHANGES.items()
        }
    return found


def run(folders: Folders, *, quick: bool) -> list[str]:
    """Measure the eighteen cells, draw them, and count those that are as printed. Quick is no quicker."""
    del quick
    found = measure()
    config = {"rows": ROWS, "inputs": INPUTS, "units": UNITS, "scale": SCALE, "shift": SHIFT, "seed": SEED}
    results: dict[str, Any] = {"config": config, "tolerance": TOLERANCE, "largest_relative_change": found}
    write_results(NAME, results, folders.results)
    draw(found, folders.figures)
    as_printed = sum(
        (change <= TOLERANCE) == printed
        for method, row in found.items()
        for change, printed in zip(row.values(), PRINTED[method], strict=True)
    )
    return [f"{as_printed} of {len(METHODS) * len(CHANGES)} cells are as table 1 of Ba et al. prints them"]


def draw(found: dict[str, dict[str, float]], folder: Path) -> Path:
    """``invariance.png``: green where nothing changes, a tick where that is what the paper prints."""
    figure = new_figure(9, 3)
    axes = figure.subplots()
    kept = [[change <= TOLERANCE for change in row.values()] for row in found.values()]
    axes.imshow([[0.75 if cell else 0.2 for cell in row] for row in kept], cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    for i, (method, row) in enumerate(found.items()):
        for j, change in enumerate(row.values()):
            said = ("invariant" if kept[i][j] else "changes") + f"\n{change:.0e}"
            axes.text(
                j, i, said + ("" if kept[i][j] == PRINTED[method][j] else "\nnot as printed"), ha="center", va="center"
            )
    axes.set_xticks(range(len(CHANGES)), [name.replace(" re-", "\nre-") for name in CHANGES])
    axes.set_yticks(range(len(METHODS)), list(METHODS))
    axes.set_xlabel("change of weights or data")
    axes.set_ylabel("method")
    caption = (
        "Table 1 of Ba et al. 2016, measured in float64: the largest change of an output, relative to the largest; "
        f"invariant: at most {TOLERANCE:g}."
    )
    return save_figure(figure, NAME, caption, folder)
