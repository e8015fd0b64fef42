"""Training on the handwritten digits, an epoch at a time."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from export.certify import forward
from export.held_out import classification_metrics, digits


def epochs(
    model: nn.Module, optimizer: torch.optim.Optimizer, row_shape: tuple[int, ...], *, seed: int, batch_size: int
) -> Iterator[dict[str, float]]:
    """Train the model for as long as the caller goes on; after each epoch its training loss and held-out metrics.

    The order of the images depends on the seed alone. A last batch smaller than the others is trained on too, unless
    it is a single image: a BatchNorm cannot take one, and every model is to see the same images.
    """
    rng = np.random.default_rng(seed)
    data = digits()
    images, labels = torch.from_numpy(data.train_images.reshape(-1, *row_shape)), torch.from_numpy(data.train_labels)
    test_images = data.test_images.reshape(-1, *row_shape)
    while True:
        model.train()
        order = torch.from_numpy(rng.permutation(len(images)))
        losses = []
        for batch in torch.split(order, batch_size):
            if len(batch) == 1 < batch_size:
                continue
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        metrics = classification_metrics(forward(model.eval(), test_images), data.test_labels)
        yield {"loss": float(np.mean(losses)), **metrics}


def curves(found: Iterable[dict[str, float]]) -> dict[str, list[float]]:
    """What :func:`epochs` yielded, a list for each figure, to five significant digits."""
    rows = list(found)
    return {key: [float(f"{row[key]:.5g}") for row in rows] for key in rows[0]}
