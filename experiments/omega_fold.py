"""``omega-fold``: what a served Admin model would gain with its omegas folded into its weights (Liu et al. 2020)."""

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from torch import nn

from experiments.by_turns import by_turns, medians, ratios
from experiments.folders import COMMITTED, Folders
from experiments.progress import progress_bar
from experiments.results import write_results
from export.artifact import graph_of
from export.catalog import CATALOG
from export.checkpoint import load_checkpoint, to_safetensors
from export.held_out import Array
from export.topics import held_out_topics
from models.admin import fold_omega
from models.transformer import TransformerLM
from service.certificate import open_session
from service.manifest import WEIGHTS_FILE

NAME = "omega-fold"
MODEL = "admin-charlm"
CONFIG: dict[str, Any] = {"batch_size": 8, "length": 32, "rounds": 301}


def served(model: nn.Module) -> Callable[[Array], Array]:
    """The model as it would be served, ids -> logits: exported, opened with the service's options, one thread."""
    weights = to_safetensors(model)
    session = open_session(graph_of(CATALOG[MODEL], model, weights).SerializeToString(), weights, 1)
    return lambda ids: session.run(None, {"ids": ids})[0]


@cache  # exporting them takes 20 s
def both() -> dict[str, Callable[[Array], Array]]:
    """The committed Admin model with its omegas, and with all but the first of them folded away."""
    model: TransformerLM = CATALOG[MODEL].build()  # type: ignore[assignment]  # a model of the catalogue is any module
    load_checkpoint(model, COMMITTED.artifacts / MODEL / CATALOG[MODEL].version / WEIGHTS_FILE)
    folded = copy.deepcopy(model)
    folded.encoder = fold_omega(model.encoder)
    return {"omega": served(model), "folded": served(folded)}


def run(folders: Folders, *, quick: bool) -> list[str]:
    """Compare the answers, then time both by turns; a line."""
    config = {**CONFIG, "rounds": 11} if quick else CONFIG
    models = both()
    ids = held_out_topics().inputs["ids"][: config["batch_size"], : config["length"]]
    answers = {name: model(ids) for name, model in models.items()}
    ways = {name: partial(model, ids) for name, model in models.items()}
    with progress_bar() as progress:
        task = progress.add_task(NAME, total=config["rounds"], last="")
        taken = by_turns(ways, config["rounds"], partial(progress.advance, task))
    ratio, quartiles = ratios(taken["folded"], taken["omega"], 4)
    max_abs = float(np.abs(answers["folded"] - answers["omega"]).max())
    found = {"max_abs": max_abs, "seconds": medians(taken), "ratio": ratio, "quartiles": quartiles}
    write_results(NAME, {"config": config, **found}, folders.results)
    return [
        f"folded, a run takes {ratio:.3f} of the time (quartiles {quartiles[0]:.3f} and {quartiles[1]:.3f}); "
        f"the answers differ by at most {max_abs:.1e}"
    ]
