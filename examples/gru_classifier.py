"""A class for a series of measurements by ``nn.GRU`` (Cho et al. 2014, arXiv 1406.1078).

r, z = s(W x + U h + b); n = tanh(W_n x + b + r (U_n h + b')); h = (1 - z) n + z h.
"""

import torch
from torch import Tensor, nn

from export import export_model


class Classifier(nn.Module):
    """The last state, normalised, to logits."""

    def __init__(self, channels: int = 3, hidden_size: int = 8) -> None:
        super().__init__()
        self.gru = nn.GRU(channels, hidden_size, batch_first=True)
        self.norm = nn.LayerNorm(hidden_size)
        self.head = nn.Linear(hidden_size, 4)

    def forward(self, series: Tensor) -> Tensor:
        """(N, T, 3) -> (N, 4)."""
        _, last = self.gru(series)
        return self.head(self.norm(last[-1]))  # type: ignore[no-any-return]


def build() -> nn.Module:
    """The model, with random weights in place of trained ones."""
    torch.manual_seed(0)
    return Classifier()


def example() -> dict[str, Tensor]:
    """Two series of seven measurements."""
    return {"series": torch.randn(2, 7, 3)}


if __name__ == "__main__":
    export_model(build(), example(), name="gru-classifier", outputs=["logits"])
