"""``step-time``: what LayerNorm adds to a training step of RNN, LSTM and GRU, in wall time."""

from collections.abc import Callable
from typing import Any

import torch

from experiments.by_turns import by_turns, medians, ratios
from experiments.folders import Folders
from experiments.language_model import next_character_loss
from experiments.progress import progress_bar
from experiments.recurrent import CONFIG as MODEL
from experiments.recurrent import KINDS, LENGTHS, build
from experiments.results import write_results
from experiments.windows import windows
from export.topics import topics

NAME = "step-time"
CONFIG: dict[str, Any] = {**{key: MODEL[key] for key in ("embedding_size", "hidden_size", "batch_size")}, "rounds": 31}


def training_step(kind: str, norm: str, length: int, config: dict[str, Any]) -> Callable[[], None]:
    """One step of a new model on one batch: forward, backward, Adam."""
    model = build(kind, norm, config)
    optimizer = torch.optim.Adam(model.parameters())
    x, y = windows(torch.from_numpy(topics().train_ids), 0, 0, batch_size=config["batch_size"], length=length)

    def step() -> None:
        optimizer.zero_grad()
        next_character_loss(model, x, y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def measure(kind: str, length: int, config: dict[str, Any]) -> dict[str, Any]:
    """Both steps by turns, on one thread: median seconds of each, and the ratio of every round."""
    steps = {norm: training_step(kind, norm, length, config) for norm in ("none", "layer")}
    by_turns(steps, 1)  # warms up
    taken = by_turns(steps, config["rounds"] - 1)
    ratio, quartiles = ratios(taken["layer"], taken["none"], 3)
    return {"kind": kind, "length": length, "seconds": medians(taken), "ratio": ratio, "quartiles": quartiles}


def run(folders: Folders, *, quick: bool) -> list[str]:
    """Time every kind and length, LayerNorm against none; a line for each."""
    config = {**CONFIG, "rounds": 3} if quick else CONFIG
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = []
    with progress_bar() as progress:
        task = progress.add_task(NAME, total=len(KINDS) * len(LENGTHS), last="")
        for length in LENGTHS:
            for kind in KINDS:
                found.append(measure(kind, length, config))
                progress.update(task, advance=1, last=f"{kind} {length}: ratio {found[-1]['ratio']}")
    torch.set_num_threads(threads)
    write_results(NAME, {"config": config, "steps": found}, folders.results)
    return [
        f"{row['kind'].upper()}, T = {row['length']}: {1e3 * row['seconds']['none']:.1f} ms a step, "
        f"{row['ratio']:.2f} times that with LayerNorm"
        for row in found
    ]
