"""How every figure looks, and where it goes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

LABELS = {
    "post": "Post-LN",
    "pre": "Pre-LN",
    "admin": "Admin",
    "none": "no norm",
    "batch": "BatchNorm",
    "group": "GroupNorm",
    "layer": "LayerNorm",
    "layer_per_pixel": "LayerNorm per pixel",
}
COLOURS = {
    "post": "#c0392b",
    "pre": "#2471a3",
    "admin": "#1e8449",
    "none": "#7f8c8d",
    "batch": "#d35400",
    "group": "#8e44ad",
    "layer": "#1f618d",
    "layer_per_pixel": "#17a589",
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, drawn without a display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_seeds(axes: Axes, steps: range, curves: Sequence[Sequence[float]], name: str) -> None:
    """The mean of the seeds' curves as a line, and a band from the lowest to the highest. curves: (seeds, steps)."""
    values = np.array(curves)
    axes.plot(steps, values.mean(axis=0), color=COLOURS[name], label=LABELS[name])
    axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=COLOURS[name], alpha=0.2, linewidth=0)


def save_figure(figure: Figure, name: str, caption: str, folder: Path) -> Path:
    """``folder/name.png`` with the caption below the axes."""
    figure.supxlabel(caption, fontsize=8, x=0.01, ha="left")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.png"
    # No version of matplotlib inside: the same figures give the same bytes.
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return file
