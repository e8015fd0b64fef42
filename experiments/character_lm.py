"""``character-lm``: recurrent networks and Transformers on ``pydoc_data.topics``, each family trained alike."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from experiments.folders import Folders
from experiments.language_model import held_out_bits, next_character_loss
from experiments.progress import progress_bar
from experiments.results import write_results
from experiments.windows import windows
from export.artifact import export_artifact
from export.catalog import CATALOG
from export.checkpoint import save_checkpoint
from export.topics import topics
from models.admin import profile_omega
from models.transformer import TransformerLM
from service.manifest import WEIGHTS_FILE

RECURRENT = ("ln-rnn-charlm", "ln-lstm-charlm", "ln-gru-charlm", "lstm-charlm")
TRANSFORMERS = ("pre-ln-charlm", "post-ln-charlm", "admin-charlm")
NAME = "character-lm"
MODELS = RECURRENT + TRANSFORMERS


@dataclass(frozen=True)
class Training:
    """How a model is trained: Adam, the learning rate rising over ``warm_up`` steps, then falling along a cosine."""

    steps: int
    learning_rate: float
    seed: int = 0
    batch_size: int = 16
    length: int = 128
    warm_up: int = 200
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    evaluate_every: int = 250

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, from 0; a tenth of the highest remains at the end."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        progress = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * (0.55 + 0.45 * math.cos(math.pi * progress))


def training_of(name: str, *, quick: bool = False) -> Training:
    """Alike within a family."""
    training = Training(4000, 2e-3) if name in RECURRENT else Training(2000, 1e-3)
    return Training(20, training.learning_rate, evaluate_every=10) if quick else training


def train(name: str, training: Training, progress: Progress, parts: Path) -> tuple[nn.Module, list[dict[str, float]]]:
    """The trained model, and its training loss and held-out bits per character as they went."""
    torch.manual_seed(training.seed)
    model = CATALOG[name].build()
    ids = torch.from_numpy(topics().train_ids)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return windows(ids, training.seed, step, batch_size=training.batch_size, length=training.length)

    if isinstance(model, TransformerLM) and model.config.placement == "admin":
        profile_omega(model.encoder, model.embed(batch(0)[0]))
    optimizer = torch.optim.Adam(model.parameters(), training.learning_rate, training.betas)
    part, start, history = parts / f"{name}.pt", 0, []
    if part.exists():
        saved = torch.load(part, weights_only=True)
        if saved["training"] == asdict(training):
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            start, history = saved["step"], saved["history"]
    task = progress.add_task(name, total=training.steps, completed=start, last="")
    losses: list[float] = []
    for step in range(start, training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate_at(step)
        x, y = batch(step)
        loss = next_character_loss(model, x, y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()
        losses.append(loss.item() / math.log(2))
        progress.update(task, advance=1, last=f"{losses[-1]:.3f} bits")
        if (step + 1) % training.evaluate_every == 0:
            held_out = held_out_bits(model)
            history.append({"step": step + 1, "training_bits": float(np.mean(losses)), "held_out_bits": held_out})
            losses = []
            progress.update(task, last=f"held-out {held_out:.3f} bits")
            parts.mkdir(parents=True, exist_ok=True)
            state = {"training": asdict(training), "step": step + 1, "history": history}
            torch.save(state | {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, part)
    return model, history


def run(folders: Folders, *, quick: bool, models: tuple[str, ...] = MODELS) -> list[str]:
    """Train the models, save their checkpoints, export them, and write down what came out; a line for each."""
    results: dict[str, Any] = {"dataset_sha256": topics().sha256, "models": {}}
    with progress_bar() as progress:
        for name in models:
            training = training_of(name, quick=quick)
            model, history = train(name, training, progress, folders.parts / NAME)
            save_checkpoint(model, folders.artifacts / name / CATALOG[name].version / WEIGHTS_FILE)
            results["models"][name] = {
                "config": CATALOG[name].config,
                "training": asdict(training),
                "bits_per_character": history[-1]["held_out_bits"],
                "history": history,
            }
    for name in models:
        export_artifact(CATALOG[name], folders.artifacts)
    write_results(NAME, results, folders.results)
    return [
        f"{name}: held-out {found['bits_per_character']:.4f} bits per character"
        for name, found in results["models"].items()
    ]
