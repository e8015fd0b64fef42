"""``digits-mlp`` and ``digits-cnn``: handwritten digits, with LayerNorm and with BatchNorm, trained alike."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from experiments.folders import Folders
from experiments.results import write_results
from export.artifact import export_artifact
from export.catalog import CATALOG
from export.certify import forward
from export.checkpoint import save_checkpoint
from export.held_out import classification_metrics, digits
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
    rng = np.random.default_rng(training.seed)
    data = digits()
    row = CATALOG[name].input.shape[1:]
    images, labels = torch.from_numpy(data.train_images.reshape(-1, *row)), torch.from_numpy(data.train_labels)
    test_images = data.test_images.reshape(-1, *row)
    model = CATALOG[name].build()
    optimizer = torch.optim.AdamW(model.parameters(), training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.epochs)
    history = []
    task = progress.add_task(name, total=training.epochs, loss=float("nan"))
    for _ in range(training.epochs):
        model.train()
        order = torch.from_numpy(rng.permutation(len(images)))
        losses = []
        for batch in torch.split(order, training.batch_size):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        metrics = classification_metrics(forward(model.eval(), test_images), data.test_labels)
        history.append({"loss": float(np.mean(losses)), **metrics})
        progress.update(task, advance=1, loss=history[-1]["loss"])
    return model, history


def run(experiment: str, folders: Folders, *, quick: bool) -> list[str]:
    """Train the models, save their checkpoints, export them, and write down what came out; a line for each."""
    training = Training(epochs=2) if quick else Training()
    results: dict[str, Any] = {"training": asdict(training), "dataset_sha256": digits().sha256, "models": {}}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )
    with Progress(*columns, TimeRemainingColumn()) as progress:
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
