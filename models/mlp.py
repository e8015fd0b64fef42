"""A multi-layer perceptron, normalised before each non-linearity (Ba et al. 2016, equation 5)."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from models.layer_norm import LayerNorm

NormKind = Literal["layer", "batch"]


@dataclass(frozen=True)
class MLPConfig:
    """Sizes of an MLP and which normalisation its hidden layers have."""

    norm: NormKind
    input_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 256)
    output_size: int = 10
    dropout: float = 0.0


def _norm(kind: NormKind, size: int) -> nn.Module:
    if kind == "layer":
        return LayerNorm(size)
    if kind == "batch":
        return nn.BatchNorm1d(size)
    raise ValueError(f"norm is {kind!r}, it must be 'layer' or 'batch'")


class HiddenLayer(nn.Module):
    """h = ReLU(norm(W x)). The norm brings the bias, so the linear map has none (equation 5)."""

    def __init__(self, input_size: int, output_size: int, config: MLPConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, output_size, bias=False)
        self.norm = _norm(config.norm, output_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, input_size) -> (N, output_size)."""
        return self.dropout(self.norm(self.linear(x)).relu())  # type: ignore[no-any-return]  # Module.__call__ is Any


class MLP(nn.Module):
    """Hidden layers with one normalisation each, then plain logits: section 6.6 normalises hidden layers only."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        sizes = (config.input_size, *config.hidden_sizes)
        self.layers = nn.Sequential(*(HiddenLayer(a, b, config) for a, b in pairwise(sizes)))
        self.head = nn.Linear(sizes[-1], config.output_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, input_size) -> logits (N, output_size)."""
        return self.head(self.layers(x))  # type: ignore[no-any-return]
