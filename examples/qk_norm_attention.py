"""Causal attention with RMSNorm, of the queries and keys too.

RMSNorm(x) = x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, arXiv 1910.07467); softmax(norm(q) norm(k)^T)
v (Henry et al. 2020, arXiv 2010.04245), so that no logit of the attention grows with the weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export import export_model


class Attention(nn.Module):
    """x + W_o softmax(norm(q) norm(k)^T / sqrt(d) + causal) v of RMSNorm(x)."""

    def __init__(self, d_model: int = 16, n_heads: int = 2) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.RMSNorm(d_model, eps=1e-6)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.query_norm, self.key_norm = (nn.RMSNorm(d_model // n_heads, eps=1e-6) for _ in range(2))
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> the same shape."""
        n, t, d = x.shape
        heads = self.qkv(self.norm(x)).view(n, t, 3, self.n_heads, d // self.n_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (N, T, 3, H, D/H) -> 3 x (N, H, T, D/H)
        y = F.scaled_dot_product_attention(self.query_norm(q), self.key_norm(k), v, is_causal=True)
        return x + self.out(y.transpose(1, 2).reshape(n, t, d))  # type: ignore[no-any-return]  # to (N, T, D)


def build() -> nn.Module:
    """The model, with random weights in place of trained ones."""
    torch.manual_seed(0)
    return Attention()


def example() -> dict[str, Tensor]:
    """Two rows of five tokens."""
    return {"x": torch.randn(2, 5, 16)}


if __name__ == "__main__":
    export_model(build(), example(), name="qk-norm-attention")
