"""``omega-fold``: what a served Admin model would gain with its omegas folded into its weights (Liu et al. 2020)."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from experiments.folders import COMMITTED, Folders
from experiments.progress import progress_bar
from experiments.results import write_results
from export.catalog import CATALOG
from export.checkpoint import extents, load_checkpoint, to_safetensors
from export.held_out import Array
from export.onnx_export import export_graph
from export.topics import held_out_topics
from models.admin import fold_omega
from models.transformer import TransformerLM
from service.certificate import open_session, zeros
from service.manifest import WEIGHTS_FILE

NAME = "omega-fold"
MODEL = "admin-charlm"
CONFIG: dict[str, Any] = {"batch_size": 8, "length": 32, "rounds": 301}


def served(model: nn.Module) -> Callable[[Array], Array]:
    """The model as it would be served, ids -> logits: exported, opened with the service's options, one thread."""
    spec = CATALOG[MODEL]
    weights = to_safetensors(model)
    example = [torch.from_numpy(zeros(tensor, spec.example_shape)) for tensor in spec.inputs]
    graph = export_graph(model, example, spec.inputs, spec.outputs, extents(weights))
    session = open_session(graph.SerializeToString(), weights, 1)
    return lambda ids: session.run(None, {"ids": ids})[0]


def both(checkpoint: Path) -> dict[str, Callable[[Array], Array]]:
    """The committed Admin model with its omegas, and with all but the first of them folded away."""
    model: TransformerLM = CATALOG[MODEL].build()  # type: ignore[assignment]  # a model of the catalogue is any module
    load_checkpoint(model, checkpoint)
    folded = copy.deepcopy(model)
    folded.encoder = fold_omega(model.encoder)
    return {"omega": served(model), "folded": served(folded)}


def run(folders: Folders, *, quick: bool) -> list[str]:
    """Compare the answers, then time both by turns; a line."""
    config = {**CONFIG, "rounds": 11} if quick else CONFIG
    models = both(COMMITTED.artifacts / MODEL / CATALOG[MODEL].version / WEIGHTS_FILE)
    ids = held_out_topics().inputs["ids"][: config["batch_size"], : config["length"]]
    answers = {name: model(ids) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with progress_bar() as progress:
        task = progress.add_task(NAME, total=config["rounds"], last="")
        for _ in range(config["rounds"]):
            for name, model in models.items():
                started = time.perf_counter()
                model(ids)
                seconds[name].append(time.perf_counter() - started)
            progress.advance(task)
    low, ratio, high = np.quantile(np.divide(seconds["folded"], seconds["omega"]), (0.25, 0.5, 0.75)).round(4).tolist()
    max_abs = float(np.abs(answers["folded"] - answers["omega"]).max())
    medians = {name: round(float(np.median(taken)), 6) for name, taken in seconds.items()}
    found = {"max_abs": max_abs, "seconds": medians, "ratio": ratio, "quartiles": [low, high]}
    write_results(NAME, {"config": config, **found}, folders.results)
    return [
        f"folded, a run takes {ratio:.3f} of the time (quartiles {low:.3f} and {high:.3f}); "
        f"the answers differ by at most {max_abs:.1e}"
    ]
