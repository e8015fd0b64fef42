"""Transformers (Vaswani et al. 2017, arXiv 1706.03762) whose residual placement is one small class each.

Pre-LN and Post-LN as Xiong et al. 2020 (arXiv 2002.04745) name them, Admin as Liu et al. 2020 (arXiv 2004.08249).
Attention and feed-forward are written out: torch's fused encoder layer takes a fast path that cannot be exported.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.layer_norm import LayerNorm

Placement = Literal["pre", "post", "admin"]
NormKind = Literal["layer", "rms"]
NORM_EPS = 1e-5


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of an encoder, where its normalisation sits, of which kind it is, and whether positions see later ones."""

    placement: Placement
    norm: NormKind = "layer"
    causal: bool = False
    d_model: int = 256
    n_heads: int = 4
    d_ff: int = 1024
    n_layers: int = 6
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.placement not in RESIDUALS:
            raise ValueError(f"placement is {self.placement!r}, it must be one of {sorted(RESIDUALS)}")
        if self.norm not in NORMS:
            raise ValueError(f"norm is {self.norm!r}, it must be one of {sorted(NORMS)}")
        if self.n_heads < 1 or self.d_model % self.n_heads:
            raise ValueError(f"n_heads is {self.n_heads}, it must divide d_model {self.d_model}")


class MultiHeadAttention(nn.Module):
    """softmax(Q K^T / sqrt(d_head)) V in each of ``n_heads`` heads; loads torch.nn.MultiheadAttention's state_dict."""

    def __init__(self, d_model: int, n_heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.causal = causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))  # Q, K and V, one below the other
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)
        for weight in self.in_proj_weight.chunk(3):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D); every position sees every other, or itself and those before it (causal)."""
        N, T, D = x.shape  # noqa: N806  # the field's names for sizes
        d_head = D // self.n_heads
        qkv = x @ self.in_proj_weight.T + self.in_proj_bias  # (N, T, 3D)
        q, k, v = qkv.view(N, T, 3, self.n_heads, d_head).permute(2, 0, 3, 1, 4)  # -> 3 x (N, H, T, D/H)
        scores = q @ k.transpose(-2, -1) / math.sqrt(d_head)  # (N, H, T, T)
        if self.causal:
            # Computed, not stored: a mask in the graph would be a constant of one length.
            position = torch.arange(T, device=x.device)
            scores = scores.masked_fill(position[:, None] < position, float("-inf"))
        heads = scores.softmax(dim=-1) @ v  # (N, H, T, D/H)
        merged = heads.transpose(1, 2).reshape(N, T, D)  # (N, H, T, D/H) -> (N, T, D)
        return self.out_proj(merged)  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """W2 ReLU(W1 x + b1) + b2 at each position."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        return self.linear2(self.linear1(x).relu())  # type: ignore[no-any-return]


class _Residual(nn.Module):
    """A sub-layer f with its norm and its dropout on the branch; subclasses say how they are put together."""

    def __init__(self, sublayer: nn.Module, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = NORMS[config.norm](config.d_model, eps=NORM_EPS)
        self.sublayer = sublayer
        self.dropout = nn.Dropout(config.dropout)


class PreLNResidual(_Residual):
    """x + f(LN(x))  (Xiong et al. 2020, table 1)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        return x + self.dropout(self.sublayer(self.norm(x)))  # type: ignore[no-any-return]


class PostLNResidual(_Residual):
    """LN(x + f(x))  (Vaswani et al. 2017, section 3.1)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        return self.norm(x + self.dropout(self.sublayer(x)))  # type: ignore[no-any-return]


class AdminResidual(_Residual):
    """LN(omega * x + f(x)), omega (D,) profiled once before training, then trained  (Liu et al. 2020, section 4.3)."""

    def __init__(self, sublayer: nn.Module, config: TransformerConfig) -> None:
        super().__init__(sublayer, config)
        self.omega = nn.Parameter(torch.ones(config.d_model))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        return self.norm(self.omega * x + self.dropout(self.sublayer(x)))  # type: ignore[no-any-return]


NORMS: dict[str, Callable[..., nn.Module]] = {"layer": LayerNorm, "rms": nn.RMSNorm}
RESIDUALS: dict[str, type[_Residual]] = {"pre": PreLNResidual, "post": PostLNResidual, "admin": AdminResidual}


class EncoderLayer(nn.Sequential):
    """Self-attention, then feed-forward, each in its residual: (N, T, D) -> (N, T, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        residual = RESIDUALS[config.placement]
        super().__init__()
        self.attention = residual(MultiHeadAttention(config.d_model, config.n_heads, causal=config.causal), config)
        self.feed_forward = residual(FeedForward(config.d_model, config.d_ff), config)


class Encoder(nn.Module):
    """``n_layers`` encoder layers. Pre-LN leaves the residual stream un-normalised, so a final norm follows it."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.Sequential(*(EncoderLayer(config) for _ in range(config.n_layers)))
        self.final_norm = (
            NORMS[config.norm](config.d_model, eps=NORM_EPS) if config.placement == "pre" else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        return self.final_norm(self.layers(x))  # type: ignore[no-any-return]

    def residuals(self) -> list["_Residual"]:
        """The sub-layers in their residuals, in the order in which x passes them."""
        return [module for module in self.layers.modules() if isinstance(module, _Residual)]


class TransformerLM(nn.Module):
    """Embedding and positions, a causal encoder, logits of the next symbol at every position."""

    def __init__(self, vocabulary_size: int, config: TransformerConfig) -> None:
        super().__init__()
        if not config.causal:
            raise ValueError("a language model's config must be causal, or it would see what it is to predict")
        self.config = config
        self.embedding = nn.Embedding(vocabulary_size, config.d_model)
        self.encoder = Encoder(config)
        self.head = nn.Linear(config.d_model, vocabulary_size)

    def forward(self, ids: Tensor) -> Tensor:
        """(N, T) -> logits (N, T, V)."""
        return self.head(self.encoder(self.embed(ids)))  # type: ignore[no-any-return]

    def embed(self, ids: Tensor) -> Tensor:
        """(N, T) -> (N, T, D): what the first sub-layer reads."""
        return self.embedding(ids) + positions(ids.shape[1], self.config.d_model, ids.device)  # type: ignore[no-any-return]


def positions(length: int, d_model: int, device: torch.device) -> Tensor:
    """Sines and cosines of wavelengths from 2 pi to 10000 * 2 pi (Vaswani et al. 2017, section 3.5): (T, D).

    Computed, not stored: any length, and no constant in the graph. Sines stand first, then cosines.
    """
    exponent = torch.arange(0, d_model, 2, device=device, dtype=torch.float32) / d_model  # (D/2,)
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * torch.exp(exponent * -math.log(1e4))
    return torch.cat((angle.sin(), angle.cos()), dim=-1)
