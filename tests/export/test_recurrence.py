"""A recurrent layer as a scan is the function it was."""

from typing import Any

import pytest
import torch
from torch import nn

from export.recurrence import Scanned, with_scans


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.LSTM, {"num_layers": 2, "batch_first": True}),
        (nn.LSTM, {"bidirectional": True, "bias": False}),
        (nn.GRU, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
        (nn.GRU, {}),
        (nn.RNN, {"nonlinearity": "relu", "batch_first": True}),
        (nn.RNN, {"nonlinearity": "tanh"}),
    ],
)
@pytest.mark.parametrize("with_state", [False, True])
def test_it_answers_as_torchs_layer_does(kind: Any, options: dict[str, Any], with_state: bool) -> None:
    torch.manual_seed(0)
    layer = kind(3, 4, **options).eval()
    x = torch.randn(2, 5, 3)  # two rows of five steps, or five rows of two
    rows = 2 if layer.batch_first else 5
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    state = [torch.randn(count, rows, 4) for _ in range(2 if kind is nn.LSTM else 1)]
    given = ((tuple(state) if kind is nn.LSTM else state[0]),) if with_state else ()
    with torch.no_grad():
        expected, ours = layer(x, *given), Scanned(layer)(x, *given)
    torch.testing.assert_close(ours, expected)


def test_a_model_without_recurrence_is_left_alone_and_one_with_it_is_copied() -> None:
    plain, recurrent = nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.LSTM(3, 3), nn.LSTM(3, 6, proj_size=2))
    assert with_scans(plain) is plain
    twin = with_scans(recurrent)
    assert [type(module) for module in twin.children()] == [Scanned, nn.LSTM]  # a projection is not the scan's
    assert [type(module) for module in recurrent.children()] == [nn.LSTM, nn.LSTM]
    assert twin.state_dict().keys() == recurrent.state_dict().keys()
