"""A small convolutional network, normalised in one of five ways.

"Layer normalisation" of images means three things: over (C, H, W) as in Ba et al. 2016; over the channels of each pixel
(Liu et al. 2022, ConvNeXt, arXiv 2201.03545); and GroupNorm (Wu and He 2018, arXiv 1803.08494), which with one group is
the first with a weight per channel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from models.layer_norm import LayerNorm

ImageNormKind = Literal["none", "batch", "group", "layer", "layer_per_pixel"]
GROUPS = 8


@dataclass(frozen=True)
class CNNConfig:
    """Sizes of the network and which normalisation follows its convolutions."""

    norm: ImageNormKind
    image_size: int = 8
    channels: tuple[int, ...] = (32, 64, 64)
    strides: tuple[int, ...] = (1, 2, 1)
    output_size: int = 10

    def __post_init__(self) -> None:
        if self.norm not in IMAGE_NORMS:
            raise ValueError(f"norm is {self.norm!r}, it must be one of {sorted(IMAGE_NORMS)}")
        if len(self.channels) != len(self.strides):
            raise ValueError(f"channels {self.channels} and strides {self.strides} differ in length")


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each pixel of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        x = x.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C): LayerNorm works on the last dim
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


# (channels, size of the image there) -> the norm
IMAGE_NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "none": lambda _channels, _size: nn.Identity(),
    "batch": lambda channels, _size: nn.BatchNorm2d(channels),
    "group": lambda channels, _size: nn.GroupNorm(GROUPS, channels),
    "layer": lambda channels, size: LayerNorm((channels, size, size)),
    "layer_per_pixel": lambda channels, _size: LayerNorm2d(channels),
}


class ConvolutionalBlock(nn.Module):
    """ReLU(norm(conv 3x3)). Only where there is no norm to bring a bias has the convolution one of its own."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, size: int, norm: ImageNormKind) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=norm == "none")
        self.norm = IMAGE_NORMS[norm](out_channels, size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride), rounded up."""
        return self.norm(self.conv(x)).relu()  # type: ignore[no-any-return]


class CNN(nn.Module):
    """Convolutional blocks, the mean over all pixels, logits."""

    def __init__(self, config: CNNConfig) -> None:
        super().__init__()
        self.config = config
        size, in_channels, blocks = config.image_size, 1, []
        for channels, stride in zip(config.channels, config.strides, strict=True):
            size = -(-size // stride)
            blocks.append(ConvolutionalBlock(in_channels, channels, stride, size, config.norm))
            in_channels = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(in_channels, config.output_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, image_size, image_size) -> logits (N, output_size)."""
        return self.head(self.blocks(x).mean(dim=(2, 3)))  # type: ignore[no-any-return]
