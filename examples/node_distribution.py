"""A model without a batch axis: a distribution over the nodes of one graph, whose every number depends on all nodes.

softmax(w^T LN(A h)) with h = LN(W x), as one step of a graph network (Kipf and Welling 2017, arXiv 1609.02907).
"""

import torch
from torch import Tensor, nn

from export import export_model


class NodeDistribution(nn.Module):
    """One step along the edges, and a softmax over all nodes."""

    def __init__(self, features: int = 4, size: int = 8) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(features, size), nn.LayerNorm(size))
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, 1)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """(V, features), (V, V) -> (V,) that add up to 1."""
        h = edges @ self.embed(nodes)
        return self.head(self.norm(h)).flatten().softmax(0)  # type: ignore[no-any-return]


def build() -> nn.Module:
    """The model, with random weights in place of trained ones."""
    torch.manual_seed(0)
    return NodeDistribution()


def example() -> dict[str, Tensor]:
    """A graph of five nodes."""
    return {"nodes": torch.randn(5, 4), "edges": torch.eye(5) / 2 + torch.eye(5).roll(1, 0) / 2}


if __name__ == "__main__":
    export_model(build(), example(), name="node-distribution", batch_axis=None)
