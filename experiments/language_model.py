"""What every experiment with a small character LM does: builds one, and takes the loss of its next characters."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from export.topics import ALPHABET
from models.transformer import Placement, TransformerConfig, TransformerLM


def small_language_model(placement: Placement, depth: int, config: dict[str, Any]) -> TransformerLM:
    """A causal character LM of ``depth`` layers and the config's d_model, n_heads and d_ff."""
    sizes = {key: config[key] for key in ("d_model", "n_heads", "d_ff")}
    return TransformerLM(len(ALPHABET), TransformerConfig(placement, causal=True, n_layers=depth, **sizes))


def next_character_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy in nats: characters (N, T) and those that follow them (N, T) -> ()."""
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())  # (N, T, V) -> (N T, V)
