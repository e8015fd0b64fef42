import numpy as np
import pytest
import torch
from torch import nn

from models.convolutional import CNN, IMAGE_NORMS, CNNConfig, LayerNorm2d
from models.layer_norm import LayerNorm, layer_norm


def network(norm: str) -> CNN:
    torch.manual_seed(0)
    return CNN(CNNConfig(norm))


def test_layer_norm_2d_normalises_the_channels_of_each_pixel() -> None:
    norm = LayerNorm2d(6)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
    x = torch.randn(2, 6, 3, 5)
    y = norm(x)
    for n, h, w in np.ndindex(2, 3, 5):
        expected = layer_norm(x[n, :, h, w], (6,), norm.weight, norm.bias)
        torch.testing.assert_close(y[n, :, h, w], expected)


def test_group_norm_of_one_group_is_layer_norm_over_the_image() -> None:
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(nn.GroupNorm(1, 4)(x), LayerNorm((4, 5, 5))(x))


@pytest.mark.parametrize("norm", IMAGE_NORMS)
def test_logits_come_out_whatever_the_norm(norm: str) -> None:
    assert network(norm)(torch.randn(3, 1, 8, 8)).shape == (3, 10)


@pytest.mark.parametrize(("norm", "has_bias"), [(norm, norm == "none") for norm in IMAGE_NORMS])
def test_a_convolution_has_a_bias_only_where_no_norm_brings_one(norm: str, has_bias: bool) -> None:
    biases = [module.bias for module in network(norm).modules() if isinstance(module, nn.Conv2d)]
    assert [bias is not None for bias in biases] == [has_bias] * 3


@pytest.mark.parametrize("norm", IMAGE_NORMS)
def test_only_batch_norm_computes_another_thing_in_training(norm: str) -> None:
    model, x = network(norm), torch.randn(5, 1, 8, 8)
    assert torch.equal(model.train()(x), model.eval()(x)) == (norm != "batch")


@pytest.mark.parametrize("norm", IMAGE_NORMS)
def test_only_under_batch_norm_an_image_feels_its_neighbours_in_training(norm: str) -> None:
    model, x = network(norm).train(), torch.randn(5, 1, 8, 8)
    others = torch.cat((x[:1], torch.randn(4, 1, 8, 8)))
    same = torch.allclose(model(x)[0], model(others)[0], rtol=1e-5, atol=1e-6)
    assert same == (norm != "batch")


def test_strides_shrink_the_image_and_the_norm_with_it() -> None:
    model = CNN(CNNConfig("layer", image_size=7, channels=(4, 6), strides=(2, 2)))
    assert [block.norm.normalized_shape for block in model.blocks] == [(4, 4, 4), (6, 2, 2)]
    assert model(torch.randn(2, 1, 7, 7)).shape == (2, 10)


def test_a_wrong_config_is_refused_with_what_it_was_and_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"norm is 'instance', it must be one of \['batch', 'group', 'layer'"):
        CNNConfig("instance")
    with pytest.raises(ValueError, match=r"channels \(4,\) and strides \(1, 2\) differ in length"):
        CNNConfig("none", channels=(4,), strides=(1, 2))
