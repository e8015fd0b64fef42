"""A module's runs, seen module by module: where two of them begin to differ, and which tensors a run changes."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from export.axes import tensors_of
from export.held_out import Arrays
from export.named_model import PREFIX, NamedModel, flattened

NAMED = 3  # modules before the rest is counted

Differ = Callable[[list[Tensor], list[Tensor]], bool]


class _Call(NamedTuple):
    """What went into a module and what came out of it, in one run."""

    path: str
    inputs: list[Tensor]
    outputs: list[Tensor]


def first_difference(one: Callable[[], Any], other: Callable[[], Any], differ: Differ) -> str:
    """The module whose inputs are alike in both runs and whose outputs are not, in words."""
    ours, theirs = _calls(one), _calls(other)
    for a, b in zip(ours, theirs, strict=False):  # the runs of a forward that looks at its input may differ in length
        if a.path == b.path and differ(a.outputs, b.outputs):
            if len(a.inputs) == len(b.inputs) and differ(a.inputs, b.inputs):
                return f"in front of {a.path}, in the forward around it"
            return f"in {a.path}"
    return "in a forward, outside of its modules"


def _calls(run: Callable[[], Any]) -> list[_Call]:
    """Every module's call, in the order in which they end."""
    calls: list[_Call] = []
    paths: dict[int, str] = {}

    def before(module: nn.Module, _inputs: Any) -> None:
        if isinstance(module, NamedModel):
            paths.update({id(each): described(path, each) for path, each in named_modules(module)})

    def after(module: nn.Module, inputs: Any, outputs: Any) -> None:
        if id(module) in paths:
            calls.append(_Call(paths[id(module)], list(_given(inputs)), list(_given(outputs))))

    hooks = [
        nn.modules.module.register_module_forward_pre_hook(before),
        nn.modules.module.register_module_forward_hook(after),
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _given(values: Any) -> Iterator[Tensor]:
    """The tensors of a module's inputs or outputs, as they are now: the next module may write into them."""
    try:
        for _, tensor in flattened(values):
            yield tensor.detach().clone()
    except Exception:  # something that is no tensor: then what came before it
        return


def described(path: str, module: nn.Module) -> str:
    """``encoder.norm (LayerNorm)``."""
    return f"{path} ({type(module).__name__})" if path else f"the {type(module).__name__} itself"


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a NamedModel by the paths that its owner knows them by."""
    for path, module in model.named_modules():
        if path:
            yield path.removeprefix("module").removeprefix("."), module


def changed_state(model: NamedModel, arrays: Arrays) -> list[str]:
    """The tensors of the module that a run in ``eval()`` mode changes in place."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin(*tensors_of(arrays, model))
    before = _tensors(model)
    return [name for name, tensor in _tensors(twin).items() if bits_differ([before[name]], [tensor])]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    found = [*model.named_parameters(), *model.named_buffers()]
    for path, module in model.named_modules():
        found += [(f"{path}.{name}", each) for name, each in vars(module).items() if isinstance(each, Tensor)]
    return {name.removeprefix(PREFIX): tensor for name, tensor in found}


def listed(names: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def bits_differ(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors differ in a shape or a bit."""
    return any(a.shape != b.shape or _bits(a) != _bits(b) for a, b in zip(ours, theirs, strict=True))


def _bits(tensor: Tensor) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)  # numpy has no bfloat16; a view of bytes serves every datatype
    return flat.view(torch.uint8).numpy().tobytes()
