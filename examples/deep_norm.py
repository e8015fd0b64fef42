"""DeepNorm: LN(alpha x + f(x)), alpha = (2 n_layers)^(1/4) of an encoder (Wang et al. 2022, arXiv 2203.00555)."""

import torch
from torch import Tensor, nn

from export import export_model


class DeepNormResidual(nn.Module):
    """LN(alpha x + f(x)) of a feed-forward f, whose weights begin smaller by (8 n_layers)^(-1/4)."""

    def __init__(self, d_model: int, n_layers: int) -> None:
        super().__init__()
        self.alpha = (2 * n_layers) ** 0.25
        self.sublayer = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.norm = nn.LayerNorm(d_model)
        with torch.no_grad():
            for parameter in self.sublayer.parameters():
                parameter.mul_((8 * n_layers) ** -0.25)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> the same shape."""
        return self.norm(self.alpha * x + self.sublayer(x))  # type: ignore[no-any-return]


def build(*, n_layers: int = 2) -> nn.Module:
    """The model, with random weights in place of trained ones."""
    torch.manual_seed(0)
    return nn.Sequential(*(DeepNormResidual(8, n_layers) for _ in range(n_layers)))


def example() -> dict[str, Tensor]:
    """Two rows of five tokens."""
    return {"x": torch.randn(2, 5, 8)}


if __name__ == "__main__":
    export_model(build(), example(), name="deep-norm")
