"""One small CNN with each of the norms of images.

(x - E[x]) / sqrt(Var[x] + eps) * weight + bias, statistics over: the batch and the pixels (BatchNorm, Ioffe and Szegedy
2015, arXiv 1502.03167), the pixels (InstanceNorm, Ulyanov et al. 2016, arXiv 1607.08022), or the pixels and a group of
channels (GroupNorm, Wu and He 2018, arXiv 1803.08494). The first alone is another function in training.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from export import export_model

CHANNELS = 8
NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch": lambda: nn.BatchNorm2d(CHANNELS),
    "group": lambda: nn.GroupNorm(2, CHANNELS),
    "instance": lambda: nn.InstanceNorm2d(CHANNELS, affine=True),
}


class CNN(nn.Module):
    """Convolution, norm, ReLU, the mean over pixels, logits."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, CHANNELS, kernel_size=3, padding=1)
        self.norm = NORMS[norm]()
        self.head = nn.Linear(CHANNELS, 4)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, 4)."""
        y = torch.relu(self.norm(self.conv(images)))
        return self.head(y.mean((2, 3)))  # type: ignore[no-any-return]


def build(*, norm: str = "group") -> nn.Module:
    """The model, with random weights in place of trained ones."""
    torch.manual_seed(0)
    return CNN(norm)


def build_batch_norm() -> nn.Module:
    """The same with BatchNorm."""
    return build(norm="batch")


def build_instance_norm() -> nn.Module:
    """The same with InstanceNorm."""
    return build(norm="instance")


def example() -> dict[str, Tensor]:
    """Four images."""
    return {"images": torch.rand(4, 1, 6, 6)}


if __name__ == "__main__":
    export_model(build(), example(), name="group-norm-cnn", outputs=["logits"])
