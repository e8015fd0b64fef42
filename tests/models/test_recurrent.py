"""The cells against the paper's equations, transcribed in numpy, and, not normalised, against torch.nn's own."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.layer_norm import LayerNorm
from models.recurrent import CELLS, Cell, RecurrentConfig, RecurrentLM

I, H = 5, 7  # noqa: E741  # the field's name for the input size
Array = np.ndarray
EPS = 1e-5


def scattered(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter away from its initial value, in float64, so that none can be left out unseen."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5 + 0.3)
    return module.double()


def cell_of(kind: str, *, normalised: bool, seed: int = 0) -> Cell:
    return scattered(CELLS[kind](I, H, normalised=normalised), seed)


def sigma(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def ln(z: Array, norm: nn.Module) -> Array:
    """LN(z; alpha, beta) of the supplement: (z - mu) / sigma * alpha + beta, sigma biased, eps inside the root."""
    mu = z.mean(axis=-1, keepdims=True)
    variance = ((z - mu) ** 2).mean(axis=-1, keepdims=True)
    return (z - mu) / np.sqrt(variance + EPS) * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def equation_4(cell: Cell, x: Array, h: Array) -> tuple[Array, ...]:
    w_hh, w_xh = cell.weight_hh.detach().numpy(), cell.weight_ih.detach().numpy()
    return (np.tanh(ln(h @ w_hh.T + x @ w_xh.T, cell.norm)),)


def equations_20_to_22(cell: Cell, x: Array, h: Array, c: Array) -> tuple[Array, ...]:
    w_h, w_x = cell.weight_hh.detach().numpy(), cell.weight_ih.detach().numpy()
    gates = ln(h @ w_h.T, cell.norm_hh) + ln(x @ w_x.T, cell.norm_ih) + cell.bias.detach().numpy()
    i, f, g, o = np.split(gates, 4, axis=-1)
    c = sigma(f) * c + sigma(i) * np.tanh(g)
    return sigma(o) * np.tanh(ln(c, cell.norm_c)), c


def equations_26_to_28(cell: Cell, x: Array, h: Array) -> tuple[Array, ...]:
    w_h, u = np.split(cell.weight_hh.detach().numpy(), [2 * H])
    w_x, w = np.split(cell.weight_ih.detach().numpy(), [2 * H])
    z, r = np.split(ln(h @ w_h.T, cell.norm_hh) + ln(x @ w_x.T, cell.norm_ih), 2, axis=-1)
    candidate = np.tanh(ln(x @ w.T, cell.norm_in) + sigma(r) * ln(h @ u.T, cell.norm_hn))
    return ((1 - sigma(z)) * h + sigma(z) * candidate,)


EQUATIONS: dict[str, Callable[..., tuple[Array, ...]]] = {
    "rnn": equation_4,
    "lstm": equations_20_to_22,
    "gru": equations_26_to_28,
}


@pytest.mark.parametrize("kind", CELLS)
def test_a_normalised_cell_computes_the_papers_equations(kind: str) -> None:
    cell = cell_of(kind, normalised=True)
    rng = np.random.default_rng(0)
    x, state = rng.standard_normal((11, 3, I)), tuple(rng.standard_normal((3, H)) for _ in cell.state)
    projected = cell.project(torch.from_numpy(x))
    carried = tuple(map(torch.from_numpy, state))
    for step in range(11):
        state = EQUATIONS[kind](cell, x[step], *state)
        carried = cell(projected[step], carried)
        for ours, theirs in zip(carried, state, strict=True):
            assert np.abs(ours.detach().numpy() - theirs).max() < 1e-6


def test_the_lstm_carries_its_cell_as_it_is() -> None:
    """Several well-known implementations carry the normalised cell on: its rows would have mean 0 and variance 1."""
    cell = CELLS["lstm"](I, H, normalised=True).double()
    state = tuple(torch.randn(4, H, dtype=torch.float64) * 9 for _ in range(2))
    _, c = cell(cell.project(torch.zeros(4, I, dtype=torch.float64)), state)
    assert (c.var(dim=-1, unbiased=False) > 2).all()


TORCH: dict[str, type[nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def torch_twin(kind: str, cell: Cell) -> nn.RNNBase:
    """torch.nn's module with the same weights; its GRU's z weighs the old state, so that gate changes its sign."""
    twin = TORCH[kind](I, H, batch_first=True).double()
    sign = torch.ones(1, dtype=torch.float64)
    order = torch.arange(twin.weight_ih_l0.shape[0])
    if kind == "gru":  # ours z, r, n; torch's r, z, n
        sign = torch.cat((torch.ones(H), -torch.ones(H), torch.ones(H))).double()[:, None]
        order = torch.cat((order[H : 2 * H], order[:H], order[2 * H :]))
    biases = {
        "rnn": lambda: (cell.norm.bias, torch.zeros(H)),
        "lstm": lambda: (cell.bias, torch.zeros(4 * H)),
        "gru": lambda: (
            torch.cat((cell.norm_ih.bias, cell.norm_in.bias))[order] * sign[:, 0],
            torch.cat((cell.norm_hh.bias, cell.norm_hn.bias))[order] * sign[:, 0],
        ),
    }[kind]()
    with torch.no_grad():
        twin.weight_ih_l0.copy_(cell.weight_ih[order] * sign)
        twin.weight_hh_l0.copy_(cell.weight_hh[order] * sign)
        twin.bias_ih_l0.copy_(biases[0])
        twin.bias_hh_l0.copy_(biases[1])
    return twin


@pytest.mark.parametrize("kind", CELLS)
def test_without_normalisation_a_cell_is_torch_nns(kind: str) -> None:
    cell = cell_of(kind, normalised=False)
    x = torch.randn(3, 9, I, dtype=torch.float64)
    expected, _ = torch_twin(kind, cell)(x)
    state = cell.initial_state(x)
    for step, projected in enumerate(cell.project(x).unbind(1)):
        state = cell(projected, state)
        torch.testing.assert_close(state[0], expected[:, step], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_gradients_are_those_of_finite_differences(kind: str, normalised: bool) -> None:
    cell = cell_of(kind, normalised=normalised)
    x = torch.randn(2, I, dtype=torch.float64, requires_grad=True)
    state = [torch.randn(2, H, dtype=torch.float64, requires_grad=True) for _ in cell.state]
    assert torch.autograd.gradcheck(lambda x, *state: cell(cell.project(x), state), (x, *state))


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.5, 20), seed=st.integers(0, 2**16))
@pytest.mark.parametrize("kind", CELLS)
def test_a_normalised_cell_does_not_see_the_scale_and_centre_of_its_products(
    kind: str, scale: float, seed: int
) -> None:
    """Ba et al., equation 6: W' = scale W + 1 gamma^T gives the same, where one LN spans the rows of W."""
    cell, changed = cell_of(kind, normalised=True, seed=seed), cell_of(kind, normalised=True, seed=seed)
    torch.manual_seed(seed)
    blocks = {"rnn": [slice(None)], "lstm": [slice(None)], "gru": [slice(2 * H), slice(2 * H, None)]}[kind]
    with torch.no_grad():
        for weight in (changed.weight_ih, changed.weight_hh):
            for block in blocks:
                weight[block] = scale * weight[block] + torch.randn(weight.shape[1], dtype=torch.float64)
    x = torch.randn(2, I, dtype=torch.float64)
    state = tuple(torch.randn(2, H, dtype=torch.float64) for _ in cell.state)
    for ours, theirs in zip(cell(cell.project(x), state), changed(changed.project(x), state), strict=True):
        # eps is not scaled along: O(eps / variance) remains
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def language_model(kind: str, *, normalised: bool = True) -> RecurrentLM:
    torch.manual_seed(0)
    return RecurrentLM(RecurrentConfig(kind, normalised, 11, embedding_size=I, hidden_size=H))


@pytest.mark.parametrize("kind", CELLS)
def test_a_sequence_may_be_cut_anywhere_and_its_state_handed_on(kind: str) -> None:
    model = language_model(kind)
    ids = torch.randint(0, 11, (3, 9))
    whole, last = model.with_state(ids)
    first, state = model.with_state(ids[:, :4])
    second, end = model.with_state(ids[:, 4:], state)
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole)
    for ours, theirs in zip(end, last, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.equal(model(ids), whole)


@pytest.mark.filterwarnings("ignore")  # torch.export's own deprecations
@pytest.mark.parametrize("kind", CELLS)
def test_what_is_exported_is_what_was_trained(kind: str) -> None:
    """The scan of the export against the loop of the training, at another length than the example's."""
    model = language_model(kind).eval()
    batch, time = (torch.export.Dim(name, min=1) for name in ("batch", "time"))
    exported = torch.export.export(
        model, (torch.zeros(3, 5, dtype=torch.int64),), dynamic_shapes=({0: batch, 1: time},)
    )
    ids = torch.randint(0, 11, (2, 6))
    assert any("scan" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(ids), model(ids))


@pytest.mark.parametrize("kind", CELLS)
def test_training_and_test_time_compute_the_same(kind: str) -> None:
    model = language_model(kind)
    ids = torch.randint(0, 11, (4, 8))
    assert torch.equal(model.train()(ids), model.eval()(ids))


def test_a_step_sees_nothing_that_comes_after_it() -> None:
    model = language_model("gru")
    ids = torch.randint(0, 10, (2, 8))
    changed = ids.clone()
    changed[:, 5:] += 1
    assert torch.equal(model(ids)[:, :5], model(changed)[:, :5])


@pytest.mark.parametrize(("kind", "norms"), [("rnn", 1), ("lstm", 3), ("gru", 4)])
def test_a_cell_has_the_papers_norms_with_gain_1_and_bias_0_or_none(kind: str, norms: int) -> None:
    normalised = [m for m in language_model(kind).modules() if isinstance(m, LayerNorm)]
    assert len(normalised) == norms
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() and norm.eps == EPS for norm in normalised)
    assert not [m for m in language_model(kind, normalised=False).modules() if isinstance(m, LayerNorm)]


def test_an_unknown_cell_is_refused_with_what_it_was_and_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"cell is 'elman', it must be one of \['gru', 'lstm', 'rnn'\]"):
        RecurrentConfig("elman", True, 11)
