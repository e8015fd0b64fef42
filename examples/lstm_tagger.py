"""A tag for every token by ``nn.LSTM`` (Hochreiter and Schmidhuber 1997).

(i, f, g, o) = W x + U h + b; c = s(f) c + s(i) tanh(g); h = s(o) tanh(c). Exported as one ONNX Scan over time, so that
a text may be of any length.
"""

import torch
from torch import Tensor, nn

from export import export_model


class Tagger(nn.Module):
    """Embedding, LSTM, LayerNorm, a tag's logits."""

    def __init__(self, vocabulary_size: int = 20, hidden_size: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, hidden_size)
        self.lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True)
        self.norm = nn.LayerNorm(hidden_size)
        self.head = nn.Linear(hidden_size, 3)

    def forward(self, ids: Tensor) -> Tensor:
        """(N, T) -> (N, T, 3)."""
        hidden, _ = self.lstm(self.embedding(ids))
        return self.head(self.norm(hidden))  # type: ignore[no-any-return]


def build() -> nn.Module:
    """The model, with random weights in place of trained ones."""
    torch.manual_seed(0)
    return Tagger()


def example() -> dict[str, Tensor]:
    """Two texts; the first and the last id there is are among them, so that all ids are served."""
    return {"ids": torch.tensor([[0, 4, 7, 7, 2], [19, 3, 3, 1, 12]])}


if __name__ == "__main__":
    export_model(build(), example(), name="lstm-tagger", outputs=["logits"])
