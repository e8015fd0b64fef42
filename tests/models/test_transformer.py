"""The encoder, written out, against torch's own, and the two residual placements against their equations."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.layer_norm import layer_norm
from models.transformer import (
    Encoder,
    MultiHeadAttention,
    PostLNResidual,
    PreLNResidual,
    TransformerConfig,
    TransformerLM,
    positions,
)

D_MODEL, N_HEADS, D_FF, N_LAYERS = 24, 3, 40, 3
each_placement = pytest.mark.parametrize("placement", ["pre", "post"])
each_size = pytest.mark.parametrize(("n", "t"), [(1, 1), (2, 1), (1, 7), (3, 5)])

# Our name of each part of a layer of torch.nn.TransformerEncoder.
PARTS = {
    "self_attn.": "attention.sublayer.",
    "norm1.": "attention.norm.",
    "linear1.": "feed_forward.sublayer.linear1.",
    "linear2.": "feed_forward.sublayer.linear2.",
    "norm2.": "feed_forward.norm.",
}


@pytest.fixture
def slow_path() -> Iterator[None]:
    """Torch's fused encoder kernels off: they are another implementation, not the equations."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(was_enabled)


def config(placement: str = "pre", **changes: object) -> TransformerConfig:
    sizes = {"d_model": D_MODEL, "n_heads": N_HEADS, "d_ff": D_FF, "n_layers": N_LAYERS} | changes
    return TransformerConfig(placement, **sizes)  # type: ignore[arg-type]


def scattered(module: nn.Module) -> nn.Module:
    """In float64 and eval mode, every parameter drawn again, so that no bias is 0 and no gain 1."""
    torch.manual_seed(0)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict of torch.nn.TransformerEncoder under our names."""
    renamed_state = {}
    for name, tensor in state.items():
        for theirs, ours in PARTS.items():
            name = name.replace(f".{theirs}", f".{ours}") if name.startswith("layers.") else name
        renamed_state[name.replace("norm.", "final_norm.") if name.startswith("norm.") else name] = tensor
    return renamed_state


@each_size
def test_attention_loads_torchs_state_dict_and_equals_it(n: int, t: int) -> None:
    theirs = scattered(nn.MultiheadAttention(D_MODEL, N_HEADS, batch_first=True))
    ours = MultiHeadAttention(D_MODEL, N_HEADS).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(n, t, D_MODEL, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0], rtol=1e-10, atol=1e-10)


@each_size
@each_placement
@pytest.mark.usefixtures("slow_path")
def test_encoder_equals_torchs(placement: str, n: int, t: int) -> None:
    layer = nn.TransformerEncoderLayer(
        D_MODEL, N_HEADS, D_FF, dropout=0.0, activation="relu", batch_first=True, norm_first=placement == "pre"
    )
    final_norm = nn.LayerNorm(D_MODEL) if placement == "pre" else None
    theirs = scattered(nn.TransformerEncoder(layer, N_LAYERS, final_norm, enable_nested_tensor=False))
    ours = Encoder(config(placement)).double().eval()
    ours.load_state_dict(renamed(theirs.state_dict()))
    x = torch.randn(n, t, D_MODEL, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


def residual_parts() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    return nn.Linear(D_MODEL, D_MODEL).double(), torch.randn(2, 3, D_MODEL, dtype=torch.float64) + 5


def test_pre_ln_adds_the_sublayer_of_the_normalised_input() -> None:
    sublayer, x = residual_parts()
    residual = scattered(PreLNResidual(sublayer, config()))
    normalised = layer_norm(x, (D_MODEL,), residual.norm.weight, residual.norm.bias)
    torch.testing.assert_close(residual(x), x + sublayer(normalised), rtol=1e-10, atol=1e-10)


def test_post_ln_normalises_the_sum_of_the_input_and_its_sublayer() -> None:
    sublayer, x = residual_parts()
    residual = scattered(PostLNResidual(sublayer, config()))
    expected = layer_norm(x + sublayer(x), (D_MODEL,), residual.norm.weight, residual.norm.bias)
    torch.testing.assert_close(residual(x), expected, rtol=1e-10, atol=1e-10)


def test_dropout_falls_on_the_branch_and_never_on_the_residual_stream() -> None:
    sublayer, x = residual_parts()
    everything = config(dropout=1.0)
    pre, post = PreLNResidual(sublayer, everything).double(), PostLNResidual(sublayer, everything).double()
    assert torch.equal(pre.train()(x), x)
    torch.testing.assert_close(post.train()(x), layer_norm(x, (D_MODEL,)), rtol=1e-10, atol=1e-10)


@each_placement
def test_encoder_gives_the_same_bits_in_train_and_in_eval_mode(placement: str) -> None:
    encoder = scattered(Encoder(config(placement))).float()
    x = torch.randn(2, 5, D_MODEL)
    assert torch.equal(encoder.train()(x), encoder.eval()(x))


@each_placement
def test_encoder_ends_in_a_norm(placement: str) -> None:
    torch.manual_seed(0)
    y = Encoder(config(placement))(100 * torch.randn(2, 5, D_MODEL))
    torch.testing.assert_close(y.mean(-1), torch.zeros(2, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.var(-1, unbiased=False), torch.ones(2, 5), rtol=0, atol=1e-3)


@each_placement
def test_permuting_the_positions_permutes_the_answer(placement: str) -> None:
    encoder = scattered(Encoder(config(placement)))
    x = torch.randn(2, 6, D_MODEL, dtype=torch.float64)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    torch.testing.assert_close(encoder(x[:, order]), encoder(x)[:, order], rtol=1e-10, atol=1e-10)


def test_every_position_sees_every_other() -> None:
    encoder = scattered(Encoder(config(n_layers=1)))
    x = torch.randn(1, 5, D_MODEL, dtype=torch.float64, requires_grad=True)
    for position in range(5):
        (gradient,) = torch.autograd.grad(encoder(x)[0, position].square().sum(), x)
        assert (gradient[0].abs().amax(dim=-1) > 0).all()


def test_an_unknown_placement_is_refused_with_what_it_was_and_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"placement is 'middle', it must be one of \['admin', 'post', 'pre'\]"):
        config("middle")


def test_heads_that_do_not_divide_the_model_are_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match="n_heads is 5, it must divide d_model 24"):
        config(n_heads=5)


def test_a_causal_position_sees_itself_and_those_before_it_alone() -> None:
    encoder = scattered(Encoder(config(n_layers=1, causal=True)))
    x = torch.randn(1, 5, D_MODEL, dtype=torch.float64, requires_grad=True)
    for position in range(5):
        (gradient,) = torch.autograd.grad(encoder(x)[0, position].square().sum(), x)
        assert (gradient[0].abs().amax(dim=-1) > 0).tolist() == [seen <= position for seen in range(5)]


def test_the_kind_of_norm_is_one_argument() -> None:
    encoder = Encoder(config("pre", norm="rms"))
    kinds = {type(module) for module in encoder.modules() if "Norm" in type(module).__name__}
    assert kinds == {nn.RMSNorm}
    with pytest.raises(ValueError, match=r"norm is 'batch', it must be one of \['layer', 'rms'\]"):
        config(norm="batch")


def test_positions_are_the_papers_sines_and_cosines() -> None:
    table = positions(50, 8, torch.device("cpu")).double().numpy()
    t, i = np.arange(50)[:, None], np.arange(4)
    angle = t / 10000 ** (2 * i / 8)
    assert np.abs(table - np.concatenate((np.sin(angle), np.cos(angle)), axis=1)).max() < 1e-5


def test_a_language_model_must_not_see_what_it_predicts() -> None:
    with pytest.raises(ValueError, match="must be causal"):
        TransformerLM(11, config())
    model = TransformerLM(11, config(causal=True))
    ids = torch.randint(0, 10, (2, 8))
    changed = ids.clone()
    changed[:, 5:] += 1
    torch.testing.assert_close(model(ids)[:, :5], model(changed)[:, :5])
    assert not torch.allclose(model(ids)[:, 5:], model(changed)[:, 5:])
    assert model(ids).shape == (2, 8, 11)
