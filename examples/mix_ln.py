"""Mix-LN: Post-LN in the first quarter of the layers, Pre-LN in the rest (Li et al. 2024, arXiv 2412.13795)."""

import torch
from torch import Tensor, nn

from export import export_model


class Residual(nn.Module):
    """LN(x + f(x)) where the norm is behind, else x + f(LN(x))."""

    def __init__(self, d_model: int, *, norm_behind: bool) -> None:
        super().__init__()
        self.norm_behind = norm_behind
        self.norm = nn.LayerNorm(d_model)
        self.sublayer = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> the same shape."""
        if self.norm_behind:
            return self.norm(x + self.sublayer(x))  # type: ignore[no-any-return]
        return x + self.sublayer(self.norm(x))  # type: ignore[no-any-return]


def build(*, n_layers: int = 2) -> nn.Module:
    """The model, with random weights in place of trained ones."""
    torch.manual_seed(0)
    return nn.Sequential(*(Residual(8, norm_behind=layer < n_layers / 4) for layer in range(n_layers)))


def example() -> dict[str, Tensor]:
    """Two rows of five tokens."""
    return {"x": torch.randn(2, 5, 8)}


if __name__ == "__main__":
    export_model(build(), example(), name="mix-ln")
