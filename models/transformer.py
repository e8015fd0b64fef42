"""Transformer encoder (Vaswani et al. 2017, arXiv 1706.03762) whose residual placement is one small class each.

Pre-LN and Post-LN as Xiong et al. 2020 (arXiv 2002.04745) name them. Attention and feed-forward are written out:
torch's fused encoder layer takes a fast path in eval mode that cannot be exported.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.layer_norm import LayerNorm

Placement = Literal["pre", "post"]


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of an encoder and where its normalisation sits: Pre-LN ("pre") or Post-LN ("post")."""

    placement: Placement
    d_model: int = 256
    n_heads: int = 4
    d_ff: int = 1024
    n_layers: int = 6
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.placement not in RESIDUALS:
            raise ValueError(f"placement is {self.placement!r}, it must be one of {sorted(RESIDUALS)}")
        if self.n_heads < 1 or self.d_model % self.n_heads:
            raise ValueError(f"n_heads is {self.n_heads}, it must divide d_model {self.d_model}")


class MultiHeadAttention(nn.Module):
    """softmax(Q K^T / sqrt(d_head)) V in each of ``n_heads`` heads; loads torch.nn.MultiheadAttention's state_dict."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))  # Q, K and V, one below the other
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)
        for weight in self.in_proj_weight.chunk(3):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D); every position sees every other."""
        N, T, D = x.shape  # noqa: N806  # the field's names for sizes
        d_head = D // self.n_heads
        qkv = x @ self.in_proj_weight.T + self.in_proj_bias  # (N, T, 3D)
        q, k, v = qkv.view(N, T, 3, self.n_heads, d_head).permute(2, 0, 3, 1, 4)  # -> 3 x (N, H, T, D/H)
        scores = q @ k.transpose(-2, -1) / math.sqrt(d_head)  # (N, H, T, T)
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
        self.norm = LayerNorm(config.d_model)
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


RESIDUALS: dict[str, type[_Residual]] = {"pre": PreLNResidual, "post": PostLNResidual}


class EncoderLayer(nn.Sequential):
    """Self-attention, then feed-forward, each in its residual: (N, T, D) -> (N, T, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        residual = RESIDUALS[config.placement]
        super().__init__()
        self.attention = residual(MultiHeadAttention(config.d_model, config.n_heads), config)
        self.feed_forward = residual(FeedForward(config.d_model, config.d_ff), config)


class Encoder(nn.Module):
    """``n_layers`` encoder layers. Pre-LN leaves the residual stream un-normalised, so a final norm follows it."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.Sequential(*(EncoderLayer(config) for _ in range(config.n_layers)))
        self.final_norm = LayerNorm(config.d_model) if config.placement == "pre" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        return self.final_norm(self.layers(x))  # type: ignore[no-any-return]
