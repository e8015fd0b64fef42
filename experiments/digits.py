"""``digits-mlp`` and ``digits-cnn``: handwritten digits, with LayerNorm and with BatchNorm, trained alike."""

from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from rich.progress import Progress
from torch import nn

from experiments.epochs import epochs
from experiments.folders import Folders
from experiments.progress import progress_bar
from experiments.results import write_results
from export.artifact import export_artifact
from export.catalog import CATALOG
from export.checkpoint import save_checkpoint
from export.held_out import digits
from service.manifest import WEIGHTS_FILE

MODELS: dict[str, tuple[str, ...]] = {
    "digits-mlp": ("ln-mlp-digits", "bn-mlp-digits"),
    "digits-cnn": ("ln-cnn-digits", "bn-cnn-digits"),
}


@dataclass(frozen=True)
class Training:
    """How every model is trained. The learning rate falls to 0 along a cosine."""

    seed: int = 0
    epochs: int = 40
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.1


def train(name: str, training: Training, progress: Progress) -> tuple[nn.Module, list[dict[str, float]]]:
    """The trained model of the catalogue, and after each epoch its training loss and held-out accuracy and NLL."""
    torch.manual_seed(training.seed)
    model = CATALOG[name].build()
    row_shape = CATALOG[name].inputs[0].shape[1:]
    optimizer = torch.optim.AdamW(model.parameters(), training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.epochs)
    history = []
    task = progress.add_task(name, total=training.epochs, last="")
    after_epochs = epochs(model, optimizer, tuple(row_shape), seed=training.seed, batch_size=training.batch_size)
    for found in islice(after_epochs, training.epochs):
        schedule.step()
        history.append(found)
        progress.update(task, advance=1, last=f"loss {found['loss']:.4f}")
    return model, history


def run(experiment: str, folders: Folders, *, quick: bool) -> list[str]:
    """Train the models, save their checkpoints, export them, and write down what came out; a line for each."""
    training = Training(epochs=2) if quick else Training()
    results: dict[str, Any] = {"training": asdict(training), "dataset_sha256": digits().sha256, "models": {}}
    with progress_bar() as progress:
        for name in MODELS[experiment]:
            model, history = train(name, training, progress)
            spec = CATALOG[name]
            save_checkpoint(model, folders.artifacts / name / spec.version / WEIGHTS_FILE)
            results["models"][name] = {"config": spec.config, **history[-1], "history": history}
    for name in MODELS[experiment]:  # a checkpoint without its manifest would stand there and not be served
        export_artifact(CATALOG[name], folders.artifacts)
    write_results(experiment, results, folders.results)
    return [
        f"{name}: held-out accuracy {found['accuracy']:.4f}, nll {found['nll']:.4f}"
        for name, found in results["models"].items()
    ]


EXPERIMENTS = {name: partial(run, name) for name in MODELS}
