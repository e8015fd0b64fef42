"""Several inputs of several datatypes, several outputs: what a user may like of what an item is.

Both towers end in LayerNorm without weights, so that the score, a scaled product, stays between -1 and 1 (as the cosine
of Huang et al. 2013, DSSM).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export import export_model


class TwoTowers(nn.Module):
    """ids of what was seen, which of it counts, and numbers of an item -> a score and both embeddings."""

    def __init__(self, items: int = 12, size: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(items, size)
        self.tower = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, size))
        self.size = size

    def forward(self, seen: Tensor, counts: Tensor, item: Tensor) -> dict[str, Tensor]:
        """(N, T) integers, (N, T) booleans, (N, 3) -> score (N,), user (N, size), item_embedding (N, size)."""
        weight = counts.to(item.dtype)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1)  # nothing seen: zeros, and no division by zero
        # A product with weights, (N, 1, T) @ (N, T, size); a sum over T would have other last bits in a batch of one.
        user = (weight[:, None] @ self.embedding(seen)).squeeze(1)
        user, embedding = (F.layer_norm(each, (self.size,)) for each in (user, self.tower(item)))
        return {"score": (user * embedding).mean(-1), "user": user, "item_embedding": embedding}


def build() -> nn.Module:
    """The model, with random weights in place of trained ones."""
    torch.manual_seed(0)
    return TwoTowers()


def example() -> dict[str, Tensor]:
    """Three users, of whom one has seen nothing."""
    counts = torch.tensor([[True] * 4, [True, True, False, False], [False] * 4])
    return {
        "seen": torch.tensor([[0, 3, 5, 11], [7, 7, 0, 0], [0, 0, 0, 0]]),
        "counts": counts,
        "item": torch.randn(3, 3),
    }


if __name__ == "__main__":
    export_model(build(), example(), name="two-towers")
