"""DyT in place of a norm: tanh(alpha x) * weight + bias (Zhu et al. 2025, arXiv 2503.10622). It takes no statistics."""

import torch
from torch import Tensor, nn

from export import export_model


class DynamicTanh(nn.Module):
    """tanh(alpha x) * weight + bias; alpha is one trained number."""

    def __init__(self, size: int, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor([alpha]))
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> the same shape."""
        return torch.tanh(self.alpha * x) * self.weight + self.bias


def build() -> nn.Module:
    """The model, with random weights in place of trained ones."""
    torch.manual_seed(0)
    return nn.Sequential(DynamicTanh(8), nn.Linear(8, 16), nn.GELU(), DynamicTanh(16), nn.Linear(16, 4))


def example() -> dict[str, Tensor]:
    """Four rows."""
    return {"x": torch.randn(4, 8)}


if __name__ == "__main__":
    export_model(build(), example(), name="dynamic-tanh")
