"""The MLP: h = ReLU(norm(W x)) in each hidden layer, then plain logits."""

import pytest
import torch
from torch import Tensor, nn

from models.layer_norm import layer_norm
from models.mlp import MLP, HiddenLayer, MLPConfig

SMALL = {"input_size": 5, "hidden_sizes": (7, 3), "output_size": 4}
each_norm = pytest.mark.parametrize("norm", ["layer", "batch"])


def mlp(norm: str, **sizes: object) -> MLP:
    """In float64, with weights, biases and running statistics that are not the ones every norm starts with."""
    torch.manual_seed(0)
    model = MLP(MLPConfig(norm=norm, **(SMALL | sizes))).double()  # type: ignore[arg-type]
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 2) if name.endswith("running_var") else nn.init.normal_(tensor)
    return model.eval()


def normalised(x: Tensor, state: dict[str, Tensor], prefix: str) -> Tensor:
    weight, bias = state[f"{prefix}.weight"], state[f"{prefix}.bias"]
    mean, var = state.get(f"{prefix}.running_mean"), state.get(f"{prefix}.running_var")
    if mean is None or var is None:
        return layer_norm(x, (x.shape[-1],), weight, bias)
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


@each_norm
def test_a_hidden_layer_is_a_linear_map_then_the_norm_then_relu(norm: str) -> None:
    model = mlp(norm)
    state = model.state_dict()
    x = torch.randn(6, 5, dtype=torch.float64)
    h = x
    for layer in ("layers.0", "layers.1"):
        h = normalised(h @ state[f"{layer}.linear.weight"].T, state, f"{layer}.norm").clamp(min=0)
    logits = h @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(model(x), logits, rtol=1e-10, atol=1e-10)


@each_norm
def test_the_norm_brings_the_only_bias_of_a_hidden_layer(norm: str) -> None:
    parameters = {name for name, _ in mlp(norm).layers.named_parameters()}
    assert parameters == {f"{i}.{name}" for i in (0, 1) for name in ("linear.weight", "norm.weight", "norm.bias")}


@pytest.mark.parametrize("rows", [1, 2, 9])
@each_norm
def test_logits_have_a_row_per_input_and_a_column_per_class(norm: str, rows: int) -> None:
    assert mlp(norm)(torch.randn(rows, 5, dtype=torch.float64)).shape == (rows, 4)


def test_a_hidden_layer_is_made_for_every_hidden_size() -> None:
    model = mlp("layer", hidden_sizes=(6, 2, 9))
    assert [layer.linear.weight.shape for layer in model.layers] == [(6, 5), (2, 6), (9, 2)]


def test_an_unknown_norm_is_refused_with_what_it_was_and_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="norm is 'group', it must be 'layer' or 'batch'"):
        MLP(MLPConfig(norm="group"))  # type: ignore[arg-type]


def test_layer_norm_gives_the_same_bits_in_train_and_in_eval_mode() -> None:
    # By default there is no dropout, which would draw a mask in train() mode.
    torch.manual_seed(0)
    model = MLP(MLPConfig(norm="layer"))
    x = torch.randn(32, 64)
    assert torch.equal(model.train()(x), model.eval()(x))


def test_batch_norm_answers_otherwise_in_train_mode() -> None:
    torch.manual_seed(0)
    model = MLP(MLPConfig(norm="batch"))
    x = torch.randn(32, 64)
    assert not torch.allclose(model.train()(x), model.eval()(x), atol=1e-2)


def test_dropout_zeroes_about_its_share_in_train_mode_and_nothing_in_eval_mode() -> None:
    torch.manual_seed(0)
    layer = HiddenLayer(5, 1000, MLPConfig(norm="layer", dropout=0.5))
    x = torch.randn(20, 5)
    kept = layer.eval()(x)
    dropped = layer.train()(x)
    assert torch.equal(dropped[dropped != 0], 2 * kept[dropped != 0])
    share = (dropped[kept != 0] == 0).float().mean().item()
    assert 0.45 < share < 0.55  # 10 000 draws: a standard deviation is 0.005
