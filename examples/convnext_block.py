"""ConvNeXt's block: LayerNorm over the channels of each pixel (Liu et al. 2022, arXiv 2201.03545).

x + s * W2 GELU(W1 LN(dwconv(x))), LN and the two products with channels last.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export import export_model


class Block(nn.Module):
    """One block; ``scale`` is the paper's layer scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel_size=7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand, self.contract = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        y = self.depthwise(x).permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C): LayerNorm works on the last axis
        y = self.scale * self.contract(F.gelu(self.expand(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)  # type: ignore[no-any-return]


def build() -> nn.Module:
    """The model, with random weights in place of trained ones."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, kernel_size=2, stride=2), Block(8))


def example() -> dict[str, Tensor]:
    """Two images; height and width are found to vary."""
    return {"images": torch.rand(2, 3, 10, 12)}


if __name__ == "__main__":
    export_model(build(), example(), name="convnext-block", outputs=["features"])
