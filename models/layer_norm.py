"""Layer normalisation (Ba, Kiros and Hinton 2016, arXiv 1607.06450, equation 3)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias over the trailing ``normalized_shape``.

    Var divides by the number of elements (biased), eps stands inside the root. The paper has no eps; it keeps a
    constant row finite, whose answer is then exactly ``bias``. ``weight`` is the paper's gain g, ``bias`` its b.

    x: (..., *normalized_shape) -> the same shape.
    Raises ValueError when ``x`` does not end in ``normalized_shape``.
    """
    shape = tuple(normalized_shape)
    if not shape or tuple(x.shape[-len(shape) :]) != shape:
        raise ValueError(f"normalized_shape is {shape}, but x has shape {tuple(x.shape)}: x must end in it")
    dims = tuple(range(-len(shape), 0))
    var, mean = torch.var_mean(x, dims, unbiased=False, keepdim=True)
    y = (x - mean) * torch.rsqrt(var + eps)
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


class LayerNorm(nn.LayerNorm):
    """:func:`layer_norm` as a module, computed by torch's fused kernel; tests hold the two equal.

    It has no running statistics, so ``train()`` and ``eval()`` compute the same thing.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., *normalized_shape) -> the same shape."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
