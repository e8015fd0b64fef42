"""A module of anybody's as a function of tensors in an order, to tensors in an order, each with a name."""

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from export.errors import ExportError

PREFIX = "module."  # of every parameter's name in it
OUTPUT = "y"


class NamedModel(nn.Module):
    """``module`` with its inputs in order: all by their names where those are ``forward``'s, else all by position.

    What it returns may be nested in tuples, lists and mappings; None is left out.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        parameters = inspect.signature(module.forward).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        self.names, self.by_name = list(names), takes_any or set(names) <= parameters.keys()
        if not self.by_name and (known := sorted(set(names) & parameters.keys())):
            raise ExportError(
                f"the inputs are called {', '.join(names)}, of which forward knows {', '.join(known)} alone: it takes "
                f"{', '.join(parameters)}. Give all by forward's names, or none, then they go by their order"
            )

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors of what the module returns, in order."""
        returned = (tensor for _, tensor in flattened(self.returned(*tensors)))
        # An input that is returned as it is would be one value of two names, of which torch.onnx keeps one.
        return tuple(tensor.clone() if any(tensor is each for each in tensors) else tensor for tensor in returned)

    def returned(self, *tensors: Tensor) -> Any:
        """What the module itself returns."""
        return self.module(**dict(zip(self.names, tensors, strict=True))) if self.by_name else self.module(*tensors)


def flattened(returned: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Each tensor of what a module returned, and a name: a mapping's key, a named tuple's field, or a number.

    Raises ExportError when something in it is no tensor.
    """
    if isinstance(returned, Tensor):
        yield name or OUTPUT, returned
    elif isinstance(returned, Mapping):
        for key, value in returned.items():
            yield from flattened(value, f"{name}_{key}" if name else str(key))
    elif isinstance(returned, tuple | list):
        fields = getattr(returned, "_fields", range(len(returned)))
        for field, value in zip(fields, returned, strict=True):
            prefix = name or ("" if isinstance(field, str) else OUTPUT)
            yield from flattened(value, f"{prefix}_{field}" if prefix else field)
    elif returned is not None:
        raise ExportError(
            f"the module returns a {type(returned).__name__}{f' as {name}' if name else ''}; only tensors can be "
            "served, in tuples, lists or mappings: return those in a module of your own around it"
        )


def output_names(model: NamedModel, tensors: Sequence[Tensor], wanted: Sequence[str] | None) -> list[str]:
    """The names of what the module returns. Raises ExportError when other names are wanted than there are tensors."""
    with torch.no_grad():
        returned = dict(flattened(model.returned(*tensors)))
    found = list(returned)
    for name, tensor in returned.items():
        if tensor.dtype == torch.bfloat16 or tensor.is_complex() or tensor.is_quantized:
            raise ExportError(
                f"the module returns {name} as {tensor.dtype}, which has no datatype in the protocol: cast it, as by "
                ".float()"
            )
    if not found:
        raise ExportError("the module returns no tensor")
    if wanted is not None and (isinstance(wanted, str) or len(wanted) != len(found)):
        raise ExportError(
            f"outputs are {wanted!r}; it must be a list of {len(found)} names, the module returns {', '.join(found)}"
        )
    names = list(wanted or found)
    if "" in names or len({*names, *model.names}) < len(names) + len(model.names):
        raise ExportError(f"outputs are called {names}, inputs {model.names}: each needs a name that no other has")
    return names


@contextlib.contextmanager
def reproducible() -> Iterator[None]:
    """Torch as it computes in training: without the fast path of its Transformer, which fuses and unpads."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
