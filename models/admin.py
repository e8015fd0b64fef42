"""Admin (Liu et al. 2020, arXiv 2004.08249): how omega is found before training, and how it is folded away after it."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.transformer import AdminResidual, Encoder, FeedForward, MultiHeadAttention, PostLNResidual


def _admin_residuals(encoder: Encoder) -> list[AdminResidual]:
    residuals = [residual for residual in encoder.residuals() if isinstance(residual, AdminResidual)]
    if not residuals:
        raise ValueError(f"placement is {encoder.config.placement!r}, only 'admin' has an omega")
    return residuals


@torch.no_grad()
def profile_omega(encoder: Encoder, x: Tensor) -> list[float]:
    """Set each residual's omega from one batch, and return the values.

    omega_1 = 1, omega_{i+1}^2 = Var[omega_i x_{i-1}] + Var[f_i(x_{i-1})], in this order: omega_i is in effect when
    f_{i+1} is profiled. Variances are over all elements, as in the authors' code. x: what the first sub-layer reads,
    (N, T, D). Raises ValueError when the encoder is not an Admin one.
    """
    omegas, omega = [], 1.0
    for residual in _admin_residuals(encoder):
        residual.omega.fill_(omega)
        omegas.append(omega)
        variance = (omega * x).var(unbiased=False) + residual.sublayer(x).var(unbiased=False)
        x = residual(x)
        omega = float(variance.sqrt())
    return omegas


@torch.no_grad()
def fold_omega(encoder: Encoder) -> Encoder:
    """The same function with every omega but the first folded into the weights around it, as a new encoder.

    The norm before a sub-layer takes its omega on (weight and bias times omega), so that the shortcut carries omega x;
    the first linear map of f undoes it (its columns divided by omega). omega_1 has no norm before it and stays.
    Raises ValueError when an omega is 0 or the encoder is not an Admin one.
    """
    folded = copy.deepcopy(encoder)
    for before, residual in pairwise(_admin_residuals(folded)):
        if (residual.omega == 0).any():
            raise ValueError("an omega is 0, which no linear map can undo")
        for parameter in before.norm.parameters():
            parameter.mul_(residual.omega)
        _first_linear(residual.sublayer).div_(residual.omega)  # (out, D) / (D,)
    for layer in folded.layers:
        for name, child in list(layer.named_children()):
            if isinstance(child, AdminResidual) and child is not folded.residuals()[0]:
                setattr(layer, name, _without_omega(child, folded))
    return folded


def _first_linear(sublayer: nn.Module) -> Tensor:
    """The weight (out, D) of what the sub-layer does first with its input."""
    if isinstance(sublayer, MultiHeadAttention):
        return sublayer.in_proj_weight
    if isinstance(sublayer, FeedForward):
        return sublayer.linear1.weight
    raise TypeError(f"omega cannot be folded into {type(sublayer).__name__}")


def _without_omega(residual: AdminResidual, encoder: Encoder) -> PostLNResidual:
    """The Post-LN residual over the same norm, sub-layer and dropout."""
    plain = PostLNResidual(residual.sublayer, encoder.config)
    plain.norm, plain.dropout = residual.norm, residual.dropout
    return plain
