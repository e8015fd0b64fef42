"""A recurrent layer as a scan is the function it was."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

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


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("with_state", [False, True])
def test_one_sequence_without_rows_is_answered_without_them(kind: Any, with_state: bool) -> None:
    torch.manual_seed(0)
    layer, x = kind(3, 4, batch_first=True).eval(), torch.randn(5, 3)
    state = [torch.randn(1, 4) for _ in range(2 if kind is nn.LSTM else 1)]
    given = ((tuple(state) if kind is nn.LSTM else state[0]),) if with_state else ()
    with torch.no_grad():
        torch.testing.assert_close(Scanned(layer)(x, *given), layer(x, *given))


def test_a_forward_that_asks_its_layer_is_answered() -> None:
    layer = nn.LSTM(3, 4, num_layers=2, bidirectional=True, dropout=0.5)
    scanned = Scanned(layer)
    for name in ("input_size", "hidden_size", "num_layers", "bidirectional", "batch_first", "bias", "dropout", "mode"):
        assert getattr(scanned, name) == getattr(layer, name)
    scanned.flatten_parameters()


class Doubled(nn.GRU):
    """Somebody's own."""

    def forward(self, x: Tensor, state: Any = None) -> Any:
        return super().forward(2 * x, state)


def test_a_class_that_derives_from_a_layer_is_left_alone() -> None:
    model = nn.Sequential(Doubled(3, 4))
    assert with_scans(model) is model


def test_a_model_without_recurrence_is_left_alone_and_one_with_it_is_copied() -> None:
    plain, recurrent = nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.LSTM(3, 3), nn.LSTM(3, 6, proj_size=2))
    assert with_scans(plain) is plain
    twin = with_scans(recurrent)
    assert [type(module) for module in twin.children()] == [Scanned, nn.LSTM]  # a projection is not the scan's
    assert [type(module) for module in recurrent.children()] == [nn.LSTM, nn.LSTM]
    assert twin.state_dict().keys() == recurrent.state_dict().keys()
