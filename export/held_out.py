"""Real data that no model was trained on, and the metrics measured on it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

DIGITS_SEED = 0
DIGITS_TRAINING_ROWS = 1437  # of 1797: four fifths


@dataclass(frozen=True)
class HeldOut:
    """Inputs by name with as many rows each, the source they come from, and what an answer is worth."""

    dataset: str
    sha256: str
    split: str
    inputs: Arrays
    metrics: Callable[[Arrays], dict[str, float]]  # outputs by name -> figures, the main one first


@dataclass(frozen=True)
class Digits:
    """scikit-learn's 1797 handwritten digits, split once: images (N, 64) float32 in 0..1, labels (N,)."""

    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array
    sha256: str


@cache
def digits() -> Digits:
    """The digits that ship with scikit-learn; nothing is downloaded."""
    from sklearn.datasets import load_digits  # half a second, and only the digits need it

    images, labels = load_digits(return_X_y=True)
    sha256 = hashlib.sha256(images.astype("u1").tobytes() + labels.astype("u1").tobytes()).hexdigest()
    order = np.random.default_rng(DIGITS_SEED).permutation(len(images))
    images, labels = (images[order] / 16).astype("f4"), labels[order].astype("i8")
    n = DIGITS_TRAINING_ROWS
    return Digits(images[:n], labels[:n], images[n:], labels[n:], sha256)


def mean_nll(logits: Array, labels: Array) -> float:
    """Mean negative log likelihood in nats, computed in float64. logits: (..., C), labels: (...)."""
    logits = logits.astype("f8")
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_likelihood = np.take_along_axis(shifted, labels[..., None], -1)[..., 0] - np.log(np.exp(shifted).sum(axis=-1))
    return float(-log_likelihood.mean())


def classification_metrics(logits: Array, labels: Array) -> dict[str, float]:
    """Accuracy, and mean negative log likelihood in nats. logits: (N, C), labels: (N,)."""
    return {"accuracy": float((logits.argmax(axis=1) == labels).mean()), "nll": mean_nll(logits, labels)}


def held_out_digits(row_shape: Sequence[int] = (64,)) -> HeldOut:
    """The 360 digits that are not trained on, as ``x`` (360, *row_shape)."""
    data = digits()
    return HeldOut(
        dataset="sklearn.datasets.load_digits",
        sha256=data.sha256,
        split=f"the last {len(data.test_labels)} of numpy.random.default_rng({DIGITS_SEED}).permutation(1797)",
        inputs={"x": data.test_images.reshape(-1, *row_shape)},
        metrics=lambda outputs: classification_metrics(outputs["logits"], data.test_labels),
    )
