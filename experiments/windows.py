"""Random windows of a text, the same ones whenever a training comes to a step again."""

import numpy as np
import torch
from torch import Tensor


def windows(ids: Tensor, seed: int, step: int, *, batch_size: int, length: int) -> tuple[Tensor, Tensor]:
    """Characters (N, T) and those that follow them; which ones depends on seed and step alone."""
    rng = np.random.default_rng((seed, step))
    starts = rng.integers(0, len(ids) - length, batch_size)
    rows = torch.stack([ids[start : start + length + 1] for start in starts.tolist()])
    return rows[:, :-1], rows[:, 1:]
