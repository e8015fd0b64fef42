"""RNN, LSTM and GRU with Layer Normalisation inside the recurrence (Ba et al. 2016, arXiv 1607.06450).

Statistics are taken anew at every time step, so a sequence of any length needs nothing but the trained weights. The
same cells without normalisation are the baseline. Gate orders are torch.nn's, and so are the weights' names.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch._higher_order_ops import scan

from models.layer_norm import LayerNorm

CellKind = Literal["rnn", "lstm", "gru"]
State = tuple[Tensor, ...]  # h first: (N, H) each


@dataclass(frozen=True)
class RecurrentConfig:
    """Sizes of a recurrent language model, its cell, and whether the cell is normalised."""

    cell: CellKind
    normalised: bool
    vocabulary_size: int
    embedding_size: int = 64
    hidden_size: int = 128

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise ValueError(f"cell is {self.cell!r}, it must be one of {sorted(CELLS)}")


class Shift(nn.Module):
    """x + bias: a LayerNorm with its normalisation taken away."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> the same shape."""
        return x + self.bias


class Cell(nn.Module):
    """What every cell has: W_x, W_h of ``gates`` blocks, and a split into what x and what h contribute.

    :meth:`project` takes what depends on x alone, all time steps at once; ``forward`` is one step of the recurrence.
    """

    state: tuple[str, ...] = ("h",)  # what is carried from step to step

    def __init__(self, input_size: int, hidden_size: int, gates: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(gates * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(gates * hidden_size, hidden_size))
        nn.init.uniform_(self.weight_ih, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))
        for block in self.weight_hh.chunk(gates):
            nn.init.orthogonal_(block)

    def initial_state(self, x: Tensor) -> State:
        """Zeros for every row of x (N, ...), (N, H) each."""
        # Each a tensor of its own: torch's scan takes no tensor twice.
        return tuple(x.new_zeros(x.shape[0], self.hidden_size) for _ in self.state)

    def project(self, x: Tensor) -> Tensor:
        """(N, T, input_size) -> (N, T, gates * H)."""
        return x @ self.weight_ih.T

    def forward(self, projected: Tensor, state: State) -> State:
        """(N, gates * H) and the state -> the next state."""
        raise NotImplementedError(f"{type(self).__name__} is abstract")


class RNNCell(Cell):
    """h = tanh(LN(W_h h + W_x x)): one LN over the sum  (equation 4)."""

    def __init__(self, input_size: int, hidden_size: int, *, normalised: bool) -> None:
        super().__init__(input_size, hidden_size, gates=1)
        self.norm = LayerNorm(hidden_size) if normalised else Shift(hidden_size)

    def forward(self, projected: Tensor, state: State) -> State:
        """(N, H) and (h,) -> (h,)."""
        (h,) = state
        return (self.norm(h @ self.weight_hh.T + projected).tanh(),)


class LSTMCell(Cell):
    """(i, f, g, o) = LN(W_h h) + LN(W_x x) + b; c = s(f) c + s(i) tanh(g); h = s(o) tanh(LN(c))  (equations 20-22).

    Each LN of a product spans all four gates. The LN of the cell is inside the tanh alone: c is carried on as it is.
    """

    state = ("h", "c")

    def __init__(self, input_size: int, hidden_size: int, *, normalised: bool) -> None:
        super().__init__(input_size, hidden_size, gates=4)
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        self.norm_ih: nn.Module = LayerNorm(4 * hidden_size) if normalised else nn.Identity()
        self.norm_hh: nn.Module = LayerNorm(4 * hidden_size) if normalised else nn.Identity()
        self.norm_c: nn.Module = LayerNorm(hidden_size) if normalised else nn.Identity()

    def project(self, x: Tensor) -> Tensor:
        """(N, T, input_size) -> (N, T, 4H), normalised and shifted."""
        return self.norm_ih(x @ self.weight_ih.T) + self.bias  # type: ignore[no-any-return]

    def forward(self, projected: Tensor, state: State) -> State:
        """(N, 4H) and (h, c) -> (h, c)."""
        h, c = state
        gates = self.norm_hh(h @ self.weight_hh.T) + projected
        i, f, g, o = gates.chunk(4, dim=-1)  # (N, 4H) -> 4 x (N, H)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(self.norm_c(c))
        return h, c


class GRUCell(Cell):
    """(z, r) = LN(W_h h) + LN(W_x x); n = tanh(LN(W x) + s(r) LN(U h)); h = (1 - s(z)) h + s(z) n  (26-28).

    r multiplies after U and after its LN. z weighs the new state: torch.nn.GRU's z is the opposite.
    """

    def __init__(self, input_size: int, hidden_size: int, *, normalised: bool) -> None:
        super().__init__(input_size, hidden_size, gates=3)  # z, r and the candidate n
        norm: Callable[[int], nn.Module] = LayerNorm if normalised else Shift
        self.norm_ih, self.norm_hh = norm(2 * hidden_size), norm(2 * hidden_size)
        self.norm_in, self.norm_hn = norm(hidden_size), norm(hidden_size)

    def project(self, x: Tensor) -> Tensor:
        """(N, T, input_size) -> (N, T, 3H): the gates' part and the candidate's, each normalised."""
        gates, candidate = self._split(x @ self.weight_ih.T)
        return torch.cat((self.norm_ih(gates), self.norm_in(candidate)), dim=-1)

    def forward(self, projected: Tensor, state: State) -> State:
        """(N, 3H) and (h,) -> (h,)."""
        (h,) = state
        gates_x, candidate_x = self._split(projected)
        gates_h, candidate_h = self._split(h @ self.weight_hh.T)
        z, r = torch.sigmoid(gates_x + self.norm_hh(gates_h)).chunk(2, dim=-1)  # (N, 2H) -> 2 x (N, H)
        n = torch.tanh(candidate_x + r * self.norm_hn(candidate_h))
        return ((1 - z) * h + z * n,)

    def _split(self, product: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 3H) -> (..., 2H), (..., H)."""
        return product[..., : 2 * self.hidden_size], product[..., 2 * self.hidden_size :]


CELLS: dict[str, type[RNNCell | LSTMCell | GRUCell]] = {"rnn": RNNCell, "lstm": LSTMCell, "gru": GRUCell}


class RecurrentLM(nn.Module):
    """Embedding, one recurrent layer, logits of the next symbol at every step."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_size)
        self.cell = CELLS[config.cell](config.embedding_size, config.hidden_size, normalised=config.normalised)
        self.head = nn.Linear(config.hidden_size, config.vocabulary_size)

    def forward(self, ids: Tensor, *state: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(N, T) -> logits (N, T, V), from a state of zeros; given one, (N, H) each, also the last state.

        The state is h, or h and c: a sequence may be cut anywhere, and what one piece ends with be given to the next.
        """
        if not state:
            return self.with_state(ids)[0]
        logits, after = self.with_state(ids, state)
        return logits, *after

    def with_state(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(N, T) and the state before it -> logits (N, T, V) and the state after it; None is a state of zeros."""
        projected = self.cell.project(self.embedding(ids)).transpose(0, 1)  # (N, T, G) -> (T, N, G)
        state = self.cell.initial_state(self.embedding(ids)) if state is None else state
        over_time = _scanned if torch.compiler.is_exporting() else _looped
        hidden, state = over_time(self.cell, projected, state)
        return self.head(hidden.transpose(0, 1)), state  # (T, N, H) -> (N, T, H) -> (N, T, V)


def _looped(cell: Cell, projected: Tensor, state: State) -> tuple[Tensor, State]:
    """(T, N, G) -> (T, N, H) and the last state; fifty times faster in eager torch than its scan."""
    hidden = []
    for step in projected:
        state = cell(step, state)
        hidden.append(state[0])
    return torch.stack(hidden), state


def _scanned(cell: Cell, projected: Tensor, state: State) -> tuple[Tensor, State]:
    """The same as one ONNX Scan, whose body is the cell, for any T."""

    def step(carried: State, x: Tensor) -> tuple[State, Tensor]:
        following = cell(x, carried)
        return following, following[0].clone()  # scan wants outputs that are no alias of the state

    last, hidden = scan(step, state, projected, dim=0)
    return hidden, last
