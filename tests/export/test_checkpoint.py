"""The checkpoint file: what is written, what is refused, and where each tensor lies."""

import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from export.checkpoint import extents, load_checkpoint, randomize, save_checkpoint
from export.errors import ExportError
from models.mlp import MLP, MLPConfig


def mlp(norm: str = "batch", seed: int = 0) -> MLP:
    torch.manual_seed(seed)
    return MLP(MLPConfig(norm=norm, input_size=5, hidden_sizes=(7,), output_size=3))  # type: ignore[arg-type]


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "not" / "there" / "model.safetensors"
    saved, loaded = mlp(seed=1), mlp(seed=2)
    saved(torch.randn(4, 5))  # in train() mode: the running statistics move, and belong to the checkpoint
    save_checkpoint(saved, file)
    load_checkpoint(loaded, file)
    expected = saved.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_another_user_can_read_the_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    save_checkpoint(mlp(), tmp_path / "model.safetensors")
    modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert len(modes) == 1  # that of any file this process writes


def test_a_tensor_that_is_not_contiguous_is_saved_all_the_same(tmp_path: Path) -> None:
    model = nn.Linear(3, 5)
    model.weight = nn.Parameter(torch.arange(15.0).view(3, 5).T)
    save_checkpoint(model, tmp_path / "model.safetensors")
    assert torch.equal(load_file(tmp_path / "model.safetensors")["weight"], model.weight)


def test_extents_are_where_the_bytes_lie(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    state = mlp().state_dict()
    save_file(state, file, metadata={"format": "pt"})  # a header with an entry that is no tensor
    content = file.read_bytes()
    places = extents(content)
    assert places.keys() == state.keys()
    for name, (offset, length) in places.items():
        assert content[offset : offset + length] == state[name].numpy().tobytes()
    assert sum(length for _, length in places.values()) == sum(tensor.nbytes for tensor in state.values())


def test_random_weights_are_the_same_every_time_and_leave_the_norms() -> None:
    one, other = mlp("layer", seed=1), mlp("layer", seed=2)
    randomize(one)
    randomize(other)
    first, second = one.state_dict(), other.state_dict()
    drawn = [name for name, tensor in first.items() if tensor.ndim > 1]
    assert drawn
    for name in drawn:
        assert torch.equal(first[name], second[name])
        assert 0 < first[name].abs().max() <= first[name].shape[1] ** -0.5
    assert torch.equal(first["layers.0.norm.weight"], torch.ones(7))
    assert torch.equal(first["layers.0.norm.bias"], torch.zeros(7))


def other_norm(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(mlp("layer").state_dict())


def other_size(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return state | {"head.weight": torch.zeros(4, 7)}


def other_datatype(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # load_state_dict would turn it into float32 silently; the graph would then read half of the wrong bytes.
    return state | {"head.weight": state["head.weight"].double()}


def one_too_many(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return state | {"head.scale": torch.zeros(3)}


@pytest.mark.parametrize("change", [other_norm, other_size, other_datatype, one_too_many])
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, change: object) -> None:
    file = tmp_path / "model.safetensors"
    save_file(change(mlp().state_dict()), file)  # type: ignore[operator]
    with pytest.raises(ExportError, match="is not a checkpoint of this model") as caught:
        load_checkpoint(mlp(), file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\xff" * 64])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(ExportError, match="is not a checkpoint of this model"):
        load_checkpoint(mlp(), file)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_checkpoint(mlp(), file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ExportError, match="is not a checkpoint of this model"):
        load_checkpoint(mlp(), file)
