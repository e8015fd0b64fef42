"""``digits-mlp``: an MLP on handwritten digits, with LayerNorm and with BatchNorm, trained alike."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.results import RESULTS, write_results
from export.artifact import export_artifact
from export.catalog import CATALOG
from export.certify import forward
from export.checkpoint import save_checkpoint
from export.held_out import classification_metrics, digits
from models.mlp import MLP, MLPConfig, NormKind
from service.manifest import WEIGHTS_FILE

MODELS: dict[str, NormKind] = {"ln-mlp-digits": "layer", "bn-mlp-digits": "batch"}
QUICK_RESULTS = Path("build/quick/results")


@dataclass(frozen=True)
class Training:
    """How both models are trained. The learning rate falls to 0 along a cosine."""

    seed: int = 0
    epochs: int = 40
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.1


def train(config: MLPConfig, training: Training, progress: Progress, label: str) -> tuple[MLP, list[dict[str, float]]]:
    """A trained MLP, and after each epoch its training loss and held-out accuracy and NLL."""
    torch.manual_seed(training.seed)
    rng = np.random.default_rng(training.seed)
    data = digits()
    images, labels = torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels)
    model = MLP(config)
    optimizer = torch.optim.AdamW(model.parameters(), training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.epochs)
    history = []
    task = progress.add_task(label, total=training.epochs, loss=float("nan"))
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
        metrics = classification_metrics(forward(model.eval(), data.test_images), data.test_labels)
        history.append({"loss": float(np.mean(losses)), **metrics})
        progress.update(task, advance=1, loss=history[-1]["loss"])
    return model, history


def run(repository: Path, *, quick: bool) -> dict[str, Any]:
    """Train both models, save their checkpoints into ``repository``, export them, and write down what came out."""
    training = Training(epochs=2) if quick else Training()
    results: dict[str, Any] = {"training": asdict(training), "dataset_sha256": digits().sha256, "models": {}}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )
    with Progress(*columns, TimeRemainingColumn()) as progress:
        for name, norm in MODELS.items():
            config = MLPConfig(norm=norm)
            model, history = train(config, training, progress, name)
            spec = CATALOG[name]
            save_checkpoint(model, repository / name / spec.version / WEIGHTS_FILE)
            results["models"][name] = {"config": asdict(config), **history[-1], "history": history}
    for name in MODELS:  # a checkpoint without its manifest would stand in the repository and not be served
        export_artifact(CATALOG[name], repository)
    write_results("digits-mlp", results, QUICK_RESULTS if quick else RESULTS)
    return results
