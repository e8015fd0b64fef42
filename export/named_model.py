"""A module of anybody's as a function of tensors in an order, to tensors in an order, each with a name."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from export.errors import ExportError

PREFIX = "module."  # of every parameter's name in it
OUTPUT = "y"


class NamedModel(nn.Module):
    """``module`` with its inputs in order: given by their names where those are ``forward``'s, else by position.

    What it returns may be nested in tuples, lists and mappings; None is left out.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        parameters = inspect.signature(module.forward).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        self.names, self.by_name = list(names), takes_any or set(names) <= parameters.keys()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors of what the module returns, in order."""
        return tuple(tensor for _, tensor in flattened(self.returned(*tensors)))

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
        found = [name for name, _ in flattened(model.returned(*tensors))]
    if not found:
        raise ExportError("the module returns no tensor")
    if wanted is not None and len(wanted) != len(found):
        raise ExportError(f"{len(wanted)} output names are given, the module returns {len(found)}: {', '.join(found)}")
    return list(wanted or found)
