"""What every experiment with a small character LM does: builds one, takes its loss, measures it."""

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from export.certify import forward
from export.topics import ALPHABET, held_out_topics
from models.transformer import Placement, TransformerConfig, TransformerLM

EVALUATED_ROWS = 64  # at once


def small_language_model(placement: Placement, depth: int, config: dict[str, Any]) -> TransformerLM:
    """A causal character LM of ``depth`` layers and the config's d_model, n_heads and d_ff."""
    sizes = {key: config[key] for key in ("d_model", "n_heads", "d_ff")}
    return TransformerLM(len(ALPHABET), TransformerConfig(placement, causal=True, n_layers=depth, **sizes))


def next_character_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy in nats: characters (N, T) and those that follow them (N, T) -> ()."""
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())  # (N, T, V) -> (N T, V)


def held_out_bits(model: nn.Module) -> float:
    """Bits per character on the text's held-out tenth."""
    held_out = held_out_topics()
    ids = held_out.inputs["ids"]
    parts = [forward(model.eval(), ids[i : i + EVALUATED_ROWS]) for i in range(0, len(ids), EVALUATED_ROWS)]
    model.train()
    return held_out.metrics({"logits": np.concatenate(parts)})["bits_per_character"]
