"""``model.safetensors``: the weights as ``state_dict()`` saved them, and where in the file each tensor lies."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from export.errors import ExportError

RANDOM_SEED = 0


class Extent(NamedTuple):
    """Where a tensor's bytes lie in the file."""

    offset: int
    length: int


def to_safetensors(model: nn.Module) -> bytes:
    """The model's state_dict as the content of a safetensors file."""
    return save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})


def save_checkpoint(model: nn.Module, file: Path) -> None:
    """Write the model's state_dict; the folder is made when it is not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # Not safetensors' save_file: it makes a file that only its owner can read, and the service runs as another user.
    file.write_bytes(to_safetensors(model))


def randomize(model: nn.Module) -> None:
    """Draw the weights again from a fixed seed, uniform as torch's layers draw theirs; norms are left at 1 and 0."""
    generator = torch.Generator().manual_seed(RANDOM_SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                bound = parameter.shape[1] ** -0.5
                parameter.uniform_(-bound, bound, generator=generator)


def load_checkpoint(model: nn.Module, file: Path) -> bytes:
    """Load every tensor, by name; the file's content. Raises ExportError when a name, shape or datatype is another."""
    content = file.read_bytes()
    try:
        state = load(content)
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        raise ExportError(f"{file} is not a checkpoint of this model: {error}") from error
    for name, tensor in model.state_dict().items():
        if state[name].dtype != tensor.dtype:  # load_state_dict converts, but the graph reads the file's own bytes
            raise ExportError(
                f"{file} is not a checkpoint of this model: {name} is {state[name].dtype}, it must be {tensor.dtype}"
            )
    return content


def extents(content: bytes) -> dict[str, Extent]:
    """Tensor name -> where it lies, from a safetensors file's header: 8 bytes of its length, then JSON."""
    header_length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_length])
    return {
        name: Extent(8 + header_length + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }
