import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.admin import fold_omega, profile_omega
from models.transformer import AdminResidual, Encoder, PostLNResidual, TransformerConfig

D_MODEL = 12


def encoder_of(placement: str = "admin", n_layers: int = 3, norm: str = "layer") -> Encoder:
    torch.manual_seed(0)
    config = TransformerConfig(placement, norm, d_model=D_MODEL, n_heads=3, d_ff=20, n_layers=n_layers)
    return Encoder(config).double()


def scattered(encoder: Encoder) -> Encoder:
    """Omegas and norms as different as training could make them."""
    with torch.no_grad():
        for residual in encoder.residuals():
            assert isinstance(residual, AdminResidual)
            residual.omega.uniform_(0.5, 2)
            residual.norm.weight.uniform_(0.5, 2)
            if isinstance(residual.norm, nn.LayerNorm):
                residual.norm.bias.normal_()
    return encoder


def rows(seed: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((4, 9, D_MODEL)))


def test_admin_is_post_ln_with_a_weight_on_the_shortcut() -> None:
    admin, post = encoder_of("admin"), encoder_of("post")
    missing, unexpected = admin.load_state_dict(post.state_dict(), strict=False)
    assert not unexpected
    assert len(missing) == 6
    assert all(name.endswith("omega") for name in missing)
    assert torch.equal(admin(rows()), post(rows()))  # omega is 1 until it is profiled
    residual = scattered(admin).residuals()[0]
    x = rows()
    expected = residual.norm(residual.omega * x + residual.sublayer(x))
    assert torch.equal(residual(x), expected)


def test_profiling_is_the_papers_recursion() -> None:
    """omega_1 = 1, omega_{i+1}^2 = Var[omega_i x_{i-1}] + Var[f_i], omega_i in effect when f_{i+1} is seen."""
    encoder, x = encoder_of(), rows()
    omegas = profile_omega(encoder, x)
    omega, x_i = 1.0, x
    for measured, residual in zip(omegas, encoder.residuals(), strict=True):
        assert abs(measured - omega) < 1e-6
        assert torch.equal(residual.omega, torch.full((D_MODEL,), measured, dtype=torch.float64))
        with torch.no_grad():
            f = residual.sublayer(x_i).numpy()
            shortcut = omega * x_i.numpy()
            total = shortcut + f
            mu, sigma = total.mean(-1, keepdims=True), np.sqrt(total.var(-1, keepdims=True) + 1e-5)
        omega = math.sqrt(np.var(shortcut) + np.var(f))
        x_i = torch.from_numpy((total - mu) / sigma)
    assert omegas[0] == 1.0
    assert all(later > earlier for earlier, later in pairwise(omegas[1:]))


def test_profiling_leaves_no_gradient_and_nothing_but_omega_changed() -> None:
    encoder = encoder_of()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    profile_omega(encoder, rows())
    after = encoder.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if name.endswith("omega") and name != "layers.0.attention.omega"
    }
    assert all(parameter.grad is None for parameter in encoder.parameters())


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_folded_equals_unfolded(norm: str, dtype: torch.dtype, tolerance: float) -> None:
    encoder = scattered(encoder_of(norm=norm)).to(dtype)
    folded = fold_omega(encoder)
    x = rows().to(dtype)
    with torch.no_grad():
        assert (folded(x) - encoder(x)).abs().max() < tolerance


def test_folding_leaves_one_omega_and_the_encoder_as_it_was() -> None:
    encoder = scattered(encoder_of())
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    folded = fold_omega(encoder)
    assert [type(residual) for residual in folded.residuals()] == [AdminResidual] + [PostLNResidual] * 5
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert len(before) - len(folded.state_dict()) == 5


def test_an_omega_of_0_cannot_be_folded() -> None:
    encoder = encoder_of()
    with torch.no_grad():
        encoder.residuals()[2].omega[3] = 0
    with pytest.raises(ValueError, match="an omega is 0, which no linear map can undo"):
        fold_omega(encoder)


def test_a_sublayer_that_does_not_begin_with_a_linear_map_cannot_be_folded() -> None:
    encoder = encoder_of()
    encoder.residuals()[1].sublayer = nn.Tanh()
    with pytest.raises(TypeError, match="omega cannot be folded into Tanh"):
        fold_omega(encoder)


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_only_admin_has_an_omega(placement: str) -> None:
    for use in (lambda encoder: profile_omega(encoder, rows()), fold_omega):
        with pytest.raises(ValueError, match=f"placement is '{placement}', only 'admin' has an omega"):
            use(encoder_of(placement))
