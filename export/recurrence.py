"""``nn.RNN``, ``nn.LSTM`` and ``nn.GRU`` as a scan over time: torch.export unrolls them for the example's length."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops import scan

State = tuple[Tensor, ...]


class Scanned(nn.Module):
    """The same function of the same weights, under the same names; its dropout is for training and left out.

    The equations are those of torch.nn, gate orders included.
    """

    def __init__(self, recurrent: nn.RNNBase) -> None:
        super().__init__()
        self.mode, self.batch_first = recurrent.mode, recurrent.batch_first
        self.num_layers, self.hidden_size = recurrent.num_layers, recurrent.hidden_size
        # What a forward around it may read.
        self.input_size, self.bias, self.dropout = recurrent.input_size, recurrent.bias, recurrent.dropout
        self.bidirectional, self.proj_size = recurrent.bidirectional, recurrent.proj_size
        self.directions = ("", "_reverse") if recurrent.bidirectional else ("",)
        for name, parameter in recurrent.named_parameters():
            self.register_parameter(name, parameter)

    def flatten_parameters(self) -> None:
        """Nothing: it is about memory of a GPU."""

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """(N, T, input_size), or (T, N, input_size) without ``batch_first`` -> the same of H, and the last state.

        Without N in x, there is none in what is returned.
        """
        if x.ndim == 3:
            return self._of_rows(x, state)
        row = 0 if self.batch_first else 1
        given = state if state is None else _each(lambda part: part.unsqueeze(1), state)
        hidden, last = self._of_rows(x.unsqueeze(row), given)
        return hidden.squeeze(row), _each(lambda part: part.squeeze(1), last)

    def _of_rows(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        x = x.transpose(0, 1) if self.batch_first else x  # (N, T, D) -> (T, N, D)
        is_lstm = self.mode == "LSTM"
        given = None if state is None else (state if is_lstm else (state,))
        ends: list[State] = []
        for layer in range(self.num_layers):
            halves = []
            for suffix in self.directions:
                before = self._initial(x, given, len(ends))
                steps = x.flip(0) if suffix else x
                hidden, after = self._over_time(steps, before, f"l{layer}{suffix}")
                halves.append(hidden.flip(0) if suffix else hidden)
                ends.append(after)
            x = torch.cat(halves, dim=-1) if len(halves) > 1 else halves[0]
        last = tuple(torch.stack(parts) for parts in zip(*ends, strict=True))  # (layers * directions, N, H) each
        return (x.transpose(0, 1) if self.batch_first else x), (last if is_lstm else last[0])

    def _initial(self, x: Tensor, given: State | None, index: int) -> State:
        if given is not None:
            return tuple(part[index] for part in given)
        # Each a tensor of its own: torch's scan takes no tensor twice.
        return tuple(x.new_zeros(x.shape[1], self.hidden_size) for _ in range(2 if self.mode == "LSTM" else 1))

    def _over_time(self, x: Tensor, state: State, suffix: str) -> tuple[Tensor, State]:
        """(T, N, D) -> (T, N, H) and the last state."""
        weight_hh = getattr(self, f"weight_hh_{suffix}")
        projected = x @ getattr(self, f"weight_ih_{suffix}").T  # (T, N, D) -> (T, N, gates * H)
        bias_hh = None
        if hasattr(self, f"bias_ih_{suffix}"):
            projected = projected + getattr(self, f"bias_ih_{suffix}")
            bias_hh = getattr(self, f"bias_hh_{suffix}")

        def step(carried: State, at_t: Tensor) -> tuple[State, Tensor]:
            recurrent = carried[0] @ weight_hh.T
            following = self._cell(at_t, recurrent if bias_hh is None else recurrent + bias_hh, carried)
            return following, following[0].clone()  # scan wants outputs that are no alias of the state

        last, hidden = scan(step, state, projected, dim=0)
        return hidden, last

    def _cell(self, projected: Tensor, recurrent: Tensor, state: State) -> State:
        """What x and what h contribute, (N, gates * H) each, and the state before -> the state after."""
        if self.mode == "LSTM":
            i, f, g, o = (projected + recurrent).chunk(4, dim=-1)
            c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
            return torch.sigmoid(o) * torch.tanh(c), c
        if self.mode == "GRU":
            r_x, z_x, n_x = projected.chunk(3, dim=-1)
            r_h, z_h, n_h = recurrent.chunk(3, dim=-1)
            z = torch.sigmoid(z_x + z_h)
            n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
            return ((1 - z) * n + z * state[0],)
        activation = torch.tanh if self.mode == "RNN_TANH" else torch.relu
        return (activation(projected + recurrent),)


def _each(change: Callable[[Tensor], Tensor], state: Any) -> Any:
    """Of an LSTM's state both parts, of another's the one."""
    return tuple(map(change, state)) if isinstance(state, tuple) else change(state)


def with_scans(model: nn.Module) -> nn.Module:
    """The model for export: a copy whose recurrent layers go over any length. What has none is returned as it is."""
    if not any(_can_be_scanned(module) for module in model.modules()):
        return model
    twin = copy.deepcopy(model)
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if _can_be_scanned(child):
                setattr(parent, name, Scanned(child))  # type: ignore[arg-type]
    return twin


def _can_be_scanned(module: nn.Module) -> bool:
    # A class of somebody's own that derives from them may compute something else.
    return type(module) in (nn.RNN, nn.LSTM, nn.GRU) and not module.proj_size
