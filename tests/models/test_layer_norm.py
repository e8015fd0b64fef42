"""The definition of layer normalisation against float64, against torch, and against its own algebra."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.layer_norm import LayerNorm, layer_norm

# x's shape and its normalized_shape: odd sizes, one element, several trailing dimensions.
SHAPES = [
    ((4, 1), (1,)),
    ((5, 3), (3,)),
    ((3, 17), (17,)),
    ((2, 9, 257), (257,)),
    ((7, 3, 5), (3, 5)),
    ((2, 3, 5, 7), (3, 5, 7)),
    ((11,), (11,)),
]
shapes = pytest.mark.parametrize(("shape", "normalized_shape"), SHAPES, ids=str)
each_layer_norm = pytest.mark.parametrize("apply", [layer_norm, torch.nn.functional.layer_norm], ids=["ours", "torch"])


def reference(
    x: np.ndarray, normalized_shape: tuple[int, ...], weight: np.ndarray, bias: np.ndarray, eps: float
) -> np.ndarray:
    """Two passes in float64: the mean, then the mean square about it."""
    axes = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    x = x.astype("f8")
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = (centred**2).mean(axis=axes, keepdims=True)
    return centred / np.sqrt(variance + eps) * weight.astype("f8") + bias.astype("f8")


def inputs(
    shape: tuple[int, ...], normalized_shape: tuple[int, ...], mean: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape) + mean).astype("f4")
    return x, rng.standard_normal(normalized_shape).astype("f4"), rng.standard_normal(normalized_shape).astype("f4")


def tolerance(x: np.ndarray, weight: np.ndarray) -> float:
    """Four float32 steps at the size of ``x``, seen through the gain.

    The mean is a float32, so it is off by a step at its own size; the standard deviation is about 1, so that step
    comes out as it went in. A variance computed as E[x^2] - E[x]^2 is off by steps at the size of x *squared*.
    """
    return float(4 * np.spacing(np.abs(x).max()) * max(1, np.abs(weight).max()))


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e4])
@shapes
def test_definition_equals_a_float64_two_pass_reference(
    shape: tuple[int, ...], normalized_shape: tuple[int, ...], mean: float
) -> None:
    x, weight, bias = inputs(shape, normalized_shape, mean)
    got = layer_norm(torch.from_numpy(x), normalized_shape, torch.from_numpy(weight), torch.from_numpy(bias))
    assert got.dtype == torch.float32
    # 1e-5, torch's default eps, is what the definition must default to.
    expected = reference(x, normalized_shape, weight, bias, 1e-5)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=tolerance(x, weight))


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e4])
@shapes
def test_definition_equals_torchs_layer_norm(
    shape: tuple[int, ...], normalized_shape: tuple[int, ...], mean: float
) -> None:
    arrays_ = inputs(shape, normalized_shape, mean)
    x, weight, bias = map(torch.from_numpy, arrays_)
    module = torch.nn.LayerNorm(normalized_shape)
    module.load_state_dict({"weight": weight, "bias": bias})
    with torch.no_grad():
        theirs = module(x)
    ours = layer_norm(x, normalized_shape, weight, bias, module.eps)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=2 * tolerance(arrays_[0], arrays_[1]))


def test_the_reference_would_show_a_variance_taken_in_one_pass() -> None:
    x, weight, bias = inputs((3, 17), (17,), 1e4)
    variance = (x**2).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2
    one_pass = (x - x.mean(-1, keepdims=True)) / np.sqrt(np.maximum(variance, 0) + 1e-5) * weight + bias
    error = np.abs(one_pass - reference(x, (17,), weight, bias, 1e-5)).max()
    assert error > 10 * tolerance(x, weight)


def test_variance_divides_by_the_number_of_elements_and_eps_stands_inside_the_root() -> None:
    x = torch.tensor([[0.0, 2.0]], dtype=torch.float64)  # mean 1, biased variance 1
    # 1 / sqrt(1 + 3); an unbiased variance gives 1 / sqrt(5), eps outside the root 1 / (1 + 3).
    assert layer_norm(x, (2,), eps=3.0).tolist() == [[-0.5, 0.5]]


@each_layer_norm
def test_a_constant_row_is_exactly_the_bias(apply: object) -> None:
    bias = torch.linspace(-3, 3, 13)
    x = torch.tensor([0.0, 1.0, -2.5, 1024.0])[:, None].expand(4, 13)
    got = apply(x, (13,), torch.full((13,), 7.0), bias, 1e-5)  # type: ignore[operator]
    assert torch.equal(got, bias.expand(4, 13))


def test_one_element_is_its_bias_whatever_it_was() -> None:
    x = torch.tensor([[-1e30], [0.1], [12345.678]])
    assert layer_norm(x, (1,), torch.tensor([2.0]), torch.tensor([0.25])).tolist() == [[0.25]] * 3


def test_weight_and_bias_may_be_left_out_one_by_one() -> None:
    x, weight, bias = map(torch.from_numpy, inputs((5, 9), (9,)))
    plain = layer_norm(x, (9,))
    assert torch.equal(layer_norm(x, (9,), weight), plain * weight)
    assert torch.equal(layer_norm(x, (9,), bias=bias), plain + bias)


@pytest.mark.parametrize(
    ("shape", "normalized_shape"), [((2, 5), (4,)), ((5,), (2, 5)), ((2, 3, 5), (2, 3)), ((2, 5), ())], ids=str
)
def test_a_wrong_shape_is_refused_with_both_shapes_named(
    shape: tuple[int, ...], normalized_shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="must end in it") as caught:
        layer_norm(torch.zeros(shape), normalized_shape)
    assert f"normalized_shape is {normalized_shape}" in str(caught.value)
    assert f"x has shape {shape}" in str(caught.value)


@pytest.mark.parametrize("normalized_shape", [(5,), (3, 5)], ids=str)
def test_gradients_are_those_of_finite_differences(normalized_shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3, 5), normalized_shape, normalized_shape)
    )
    assert torch.autograd.gradcheck(lambda x, w, b: layer_norm(x, normalized_shape, w, b), (x, weight, bias))
    module = LayerNorm(normalized_shape).double()
    names = ("weight", "bias")
    assert torch.autograd.gradcheck(
        lambda x, *parameters: torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,)),
        (x, weight, bias),
    )


@shapes
def test_module_equals_the_definition(shape: tuple[int, ...], normalized_shape: tuple[int, ...]) -> None:
    x, weight, bias = inputs(shape, normalized_shape)
    module = LayerNorm(normalized_shape, eps=1e-3)
    module.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    definition = layer_norm(torch.from_numpy(x), normalized_shape, module.weight, module.bias, 1e-3)
    with torch.no_grad():
        np.testing.assert_allclose(
            module(torch.from_numpy(x)), definition.detach(), rtol=1e-6, atol=2 * tolerance(x, weight)
        )


def test_module_without_gain_and_bias_equals_the_definition_without() -> None:
    x = torch.from_numpy(inputs((5, 9), (9,))[0])
    np.testing.assert_allclose(LayerNorm(9, elementwise_affine=False)(x), layer_norm(x, (9,)), rtol=1e-5, atol=1e-6)


def test_module_loads_torchs_state_dict_and_then_computes_the_same_bits() -> None:
    torch.manual_seed(0)
    theirs = torch.nn.LayerNorm((3, 5))
    torch.nn.init.normal_(theirs.weight)
    torch.nn.init.normal_(theirs.bias)
    ours = LayerNorm((3, 5))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 3, 5)
    assert torch.equal(ours(x), theirs(x))


# Rows the properties are tried on. Their spread is kept away from 0, so that eps = 1e-12 changes the answer by less
# than 1e-12 / (2 * 0.1^2 * 0.1^2) = 5e-9 of itself even after the smallest scale.
EPS, LEAST_SPREAD, CLOSE = 1e-12, 0.1, 1e-7
rows = arrays(np.float64, st.integers(2, 33), elements=st.floats(-1e3, 1e3)).map(torch.from_numpy)
properties = settings(derandomize=True, deadline=None, database=None, max_examples=60)


def norm(row: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None) -> torch.Tensor:
    return layer_norm(row, row.shape, weight, bias, EPS)


@properties
@given(row=rows, seed=st.integers(0, 99))
def test_permuting_the_features_permutes_the_answer(row: torch.Tensor, seed: int) -> None:
    assume(row.std() > LEAST_SPREAD)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(row), generator=generator)
    weight, bias = torch.randn(2, len(row), dtype=torch.float64, generator=generator)
    torch.testing.assert_close(
        norm(row[order], weight[order], bias[order]), norm(row, weight, bias)[order], rtol=CLOSE, atol=CLOSE
    )


@properties
@given(row=rows, shift=st.floats(-1e3, 1e3), scale=st.floats(0.1, 1e3))
def test_shifting_and_scaling_a_row_leave_its_answer_as_it_was(row: torch.Tensor, shift: float, scale: float) -> None:
    assume(row.std() > LEAST_SPREAD)
    torch.testing.assert_close(norm(scale * row + shift), norm(row), rtol=CLOSE, atol=CLOSE)


@properties
@given(row=rows)
def test_an_answer_without_gain_and_bias_has_mean_0_and_variance_1(row: torch.Tensor) -> None:
    assume(row.std() > LEAST_SPREAD)
    y = norm(row)
    assert abs(y.mean().item()) < CLOSE
    assert abs(y.var(unbiased=False).item() - 1) < CLOSE


@properties
@given(row=rows)
def test_module_computes_the_same_bits_in_train_and_in_eval_mode(row: torch.Tensor) -> None:
    module = LayerNorm(len(row), dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    in_training = module.train()(row)
    assert torch.equal(in_training, module.eval()(row))
    # Nothing was learnt from the row either: the module has no statistics to run.
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
