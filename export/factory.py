"""``module:factory`` -> a module with the weights of a checkpoint."""

import importlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from export.errors import ExportError, one_line
from export.precision import restored

CONSTANTS = "normserve.constants"  # in the header of model.safetensors: what of it is not in the state_dict
IN_FEWER_BITS = "normserve.in-fewer-bits"  # the same, of weights and scales
WRAPPED = ("state_dict", "model_state_dict", "model")  # where training scripts keep it beside an optimiser's


def module_of(factory: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The module that ``package.module:factory`` makes of these arguments, or is. Raises ExportError."""
    path, _, name = factory.partition(":")
    try:
        found = getattr(importlib.import_module(path), name)
        made = found if isinstance(found, nn.Module) else found(**arguments)
    except Exception as error:  # whatever anybody's code raises
        given = f" of {dict(arguments)}" if arguments else ""
        raise ExportError(f"{factory} (MODULE:FACTORY) makes no module{given}: {one_line(error)}") from error
    if not isinstance(made, nn.Module):
        raise ExportError(f"{factory} makes a {type(made).__name__}, it must make a torch.nn.Module")
    return made


def load_weights(model: nn.Module, file: Path, *, by_torch: bool = False) -> None:
    """Load every tensor by name. by_torch: by ``torch.load(weights_only=True)``, which makes tensors and no objects.

    Raises ExportError when the file cannot be read so, or a name, shape or datatype is not the model's.
    """
    state = _of_torch(file) if by_torch else _of_safetensors(file)
    own = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    for name, tensor in own.items():
        if name in state and (state[name].dtype, state[name].shape) != (tensor.dtype, tensor.shape):
            raise ExportError(
                f"{file} is not a checkpoint of this model: {name} is {_described(state[name])}, it must be "
                f"{_described(tensor)}"
            )
    unexpected = sorted(state.keys() - own.keys())
    # Of tied weights a checkpoint may have the one or the other.
    places = {tensor.data_ptr() for name, tensor in own.items() if name in state}
    missing = [name for name, tensor in own.items() if name not in state and tensor.data_ptr() not in places]
    if missing or unexpected:
        raise ExportError(
            f"{file} is not a checkpoint of this model: it lacks {missing[:5]}, and has {unexpected[:5]}, which the "
            "model has not"
        )
    model.load_state_dict(state, strict=False)


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _of_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        content = file.read_bytes()
        state = load(content)
    except OSError as error:
        raise ExportError(f"{file} cannot be read: {error.strerror}") from error
    except SafetensorError as error:
        raise ExportError(
            f"{file} is no safetensors file ({error}); safetensors.torch.save_file(model.state_dict(), ...) writes "
            "one. A file of torch.save is read with --torch-load, by torch.load(weights_only=True)"
        ) from error
    about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    constants, packed = (json.loads(about.get(key, "[]")) for key in (CONSTANTS, IN_FEWER_BITS))
    plain = {name: tensor for name, tensor in state.items() if name not in constants and name not in packed}
    return plain | restored({name: state[name] for name in packed})


def _of_torch(file: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ExportError(
            f"{file} cannot be read by torch.load(weights_only=True), and is not read otherwise, since that would run "
            f"what is in it: {one_line(error)}"
        ) from error
    for key in WRAPPED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ExportError(f"{file} holds no state_dict: it must map names to tensors, by itself or under {WRAPPED}")
    return dict(found)
