"""Peri-LN: x + LN(f(LN(x))), a norm on both sides of the sublayer (Kim et al. 2025, arXiv 2502.02732).

The same as CogView's Sandwich-LN (Ding et al. 2021, arXiv 2105.13290).
"""

import torch
from torch import Tensor, nn

from export import export_model


class PeriLNResidual(nn.Module):
    """x + LN(f(LN(x))) of a feed-forward f."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.sublayer = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> the same shape."""
        return x + self.norm_out(self.sublayer(self.norm_in(x)))  # type: ignore[no-any-return]


def build(*, n_layers: int = 2) -> nn.Module:
    """The model, with random weights in place of trained ones."""
    torch.manual_seed(0)
    return nn.Sequential(*(PeriLNResidual(8) for _ in range(n_layers)))


def example() -> dict[str, Tensor]:
    """Two rows of five tokens."""
    return {"x": torch.randn(2, 5, 8)}


if __name__ == "__main__":
    export_model(build(), example(), name="peri-ln")
