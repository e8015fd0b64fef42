"""``gradient-norm``: the gradients of the feed-forward weights at initialisation (Xiong et al. 2020, section 3)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.figures import COLOURS, LABELS, new_figure, save_figure
from experiments.folders import Folders
from experiments.language_model import next_character_loss, small_language_model
from experiments.results import write_results
from experiments.windows import windows
from export.topics import topics
from models.transformer import FeedForward, Placement

NAME = "gradient-norm"
PLACEMENTS: tuple[Placement, ...] = ("post", "pre")
CONFIG: dict[str, Any] = {
    "d_model": 64,
    "n_heads": 4,
    "d_ff": 64,  # theorem 1 has all weights d x d
    "depths": [2, 4, 8, 16, 32],
    "seeds": list(range(10)),
    "batch_size": 16,
    "length": 32,
}


def gradient_norms(placement: Placement, depth: int, seed: int, config: dict[str, Any]) -> list[float]:
    """The Frobenius norm of the loss's gradient by W2 of each layer's feed-forward, the first layer first.

    Xavier weights and biases of 0, as theorem 1 has them.
    """
    torch.manual_seed(seed)
    model = small_language_model(placement, depth, config)
    for linear in (module for module in model.encoder.modules() if isinstance(module, torch.nn.Linear)):
        torch.nn.init.xavier_normal_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    feed_forwards = [module for module in model.modules() if isinstance(module, FeedForward)]
    ids = torch.from_numpy(topics().train_ids)
    x, y = windows(ids, seed, 0, batch_size=config["batch_size"], length=config["length"])
    next_character_loss(model, x, y).backward()  # type: ignore[no-untyped-call]
    return [float(part.linear2.weight.grad.norm()) for part in feed_forwards]  # type: ignore[union-attr]


def slope(depths: list[int], norms: list[float]) -> float:
    """Of log norm against log depth: -0.5 is falling as 1 / sqrt(L), 0 is flat."""
    return float(np.polyfit(np.log(depths), np.log(norms), 1)[0])


def run(folders: Folders, *, quick: bool) -> list[str]:
    """Measure every depth, placement and seed; draw the last layer's norm over depth, and every layer's of one."""
    config = {**CONFIG, "depths": [2, 4], "seeds": [0, 1]} if quick else CONFIG
    depths = config["depths"]
    found: dict[str, Any] = {}
    for placement in PLACEMENTS:
        by_depth = {
            depth: np.array([gradient_norms(placement, depth, seed, config) for seed in config["seeds"]])
            for depth in depths
        }
        last = [float(norms[:, -1].mean()) for norms in by_depth.values()]
        found[placement] = {
            "last_layer": last,
            "last_layer_std": [float(norms[:, -1].std()) for norms in by_depth.values()],
            "slope": slope(depths, last),
            "layers_of_the_deepest": by_depth[depths[-1]].mean(axis=0).tolist(),
        }
    write_results(NAME, {"config": config, "placements": found}, folders.results)
    draw(found, config, folders.figures)
    return [
        f"{LABELS[placement]}: gradient norm of the last layer's W2 ~ depth^{figures['slope']:.2f}; in the deepest, "
        f"last layer / first layer {figures['layers_of_the_deepest'][-1] / figures['layers_of_the_deepest'][0]:.2f}"
        for placement, figures in found.items()
    ]


def draw(found: dict[str, Any], config: dict[str, Any], folder: Path) -> Path:
    """``gradient-norm.png``."""
    figure = new_figure(9, 4)
    over_depth, over_layers = figure.subplots(1, 2)
    depths = config["depths"]
    for placement, figures in found.items():
        colour, label = COLOURS[placement], f"{LABELS[placement]}, slope {figures['slope']:.2f}"
        over_depth.errorbar(depths, figures["last_layer"], figures["last_layer_std"], color=colour, label=label)
        layers = figures["layers_of_the_deepest"]
        over_layers.plot(range(1, len(layers) + 1), layers, color=colour, label=LABELS[placement])
    over_depth.set_xscale("log", base=2)
    over_depth.set_yscale("log")
    over_depth.set_xticks(depths, [str(depth) for depth in depths])
    over_depth.set_xlabel("depth L (layers)")
    over_depth.set_ylabel("gradient norm (W2 of layer L)")
    over_layers.set_yscale("log")
    over_layers.set_xlabel(f"layer l of {depths[-1]}")
    over_layers.set_ylabel("gradient norm (W2 of layer l)")
    for axes in (over_depth, over_layers):
        axes.legend(fontsize=8)
    caption = (
        f"At initialisation (Xavier, biases 0), causal character LM of d_model = d_ff = {config['d_model']}, one batch "
        f"of pydoc_data.topics;\nmean over {len(config['seeds'])} seeds, bars: standard deviation."
    )
    return save_figure(figure, NAME, caption, folder)
