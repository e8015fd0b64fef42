"""``python -m export module:factory``: a user's own module and checkpoint, named on the command line."""

import io
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

from export.__main__ import main
from export.errors import ExportError
from export.example import array_as_written, mixed_rows
from export.factory import load_weights, module_of
from service.manifest import Manifest

MODULE = """
from torch import nn


def classifier(hidden_size=4, norm="layer"):
    norms = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}
    return nn.Sequential(nn.Linear(6, hidden_size), norms[norm](hidden_size), nn.Dropout(0.1))


text = "not a module"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder the user is in, with a file ``theirs.py``."""
    (tmp_path / "theirs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    printed = io.StringIO()
    status = main(arguments, Console(file=printed, width=200))
    return status, printed.getvalue()


def trained() -> nn.Module:
    torch.manual_seed(1)
    return module_of("theirs:classifier", {"hidden_size": 5, "norm": "batch"})


def test_a_checkpoint_is_exported_and_the_table_says_what_holds_and_why_not(folder: Path) -> None:
    model = trained()
    save_file(model.state_dict(), folder / "trained.safetensors")
    status, printed = run(
        "theirs:classifier",
        *("--config", '{"hidden_size": 5, "norm": "batch"}', "--checkpoint", "trained.safetensors"),
        *("--example", "x=FP32[2,6]", "--name", "theirs", "--version", "2", "--outputs", "logits"),
        *("--repository", "repository", "--max-rows", "8", "--samples", "14", "--task", "a test"),
    )
    assert status == 0
    lines = {line.split("│")[1].strip(): line for line in printed.splitlines() if line.startswith("│")}
    assert "yes" in lines["batch_invariant"]
    assert " no " in lines["train_eval_identical"]
    assert "1 (BatchNorm1d): in training it normalises" in lines["train_eval_identical"]
    manifest = Manifest.load(folder / "repository" / "theirs" / "2")
    assert manifest.config["factory"] == "theirs:classifier"
    assert (manifest.task, manifest.outputs[0].name, manifest.max_rows) == ("a test", "logits", 8)
    weights = load_file(folder / "repository" / "theirs" / "2" / "model.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_examples_are_read_from_files(folder: Path) -> None:
    np.savez("example.npz", x=np.arange(12, dtype="f4").reshape(2, 6))
    status, _ = run("theirs:classifier", "--example", "example.npz", "--name", "m", "--repository", ".", "--samples=0")
    assert status == 0
    probe = Manifest.load(folder / "m" / "1").probe
    assert probe.inputs is not None
    assert probe.inputs[0]["x"].array("FP32").ravel().tolist() == [*range(12)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["theirs:missing", "--example", "x=FP32[2,6]"],
            "(MODULE:FACTORY) makes no module: AttributeError",
        ),
        (["theirs:text", "--example", "x=FP32[2,6]"], "theirs:text (MODULE:FACTORY) makes no module"),
        (["no_such:thing", "--example", "x=FP32[2,6]"], "ModuleNotFoundError: No module named 'no_such'"),
        (["theirs:classifier", "--example", "x=FP32[2,7]"], "cannot be run on the example inputs"),
        (["theirs:classifier", "--example", "x=FP33[2,7]"], "'x=FP33[2,7]' is no example"),
        (["theirs:classifier", "--example", "x=INT64[2,7]"], "say which integers the model takes"),
        (["theirs:classifier", "--example", "theirs.py"], "theirs.py is no .npz and no .safetensors file"),
        (["theirs:classifier", "--example", "no.npz"], "no.npz cannot be read"),
        (["theirs:classifier", "--example", "x=FP32[2,6]", "--checkpoint", "no.pt"], "no.pt cannot be read"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(arguments: list[str], words: str, folder: Path) -> None:
    status, printed = run(*arguments, "--name", "mine", "--repository", "repository")
    assert status == 1
    assert printed.startswith("mine was not exported: ")
    assert words in printed
    assert not (folder / "repository").exists()


class Runs:
    """What a pickle can do that is more than data."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("was-run",)


def test_a_checkpoint_is_never_fully_unpickled(folder: Path) -> None:
    model = trained()
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, "trained.pt")
    with pytest.raises(ExportError, match=r"trained.pt is no safetensors file .*--torch-load"):
        load_weights(trained(), Path("trained.pt"))
    other = module_of("theirs:classifier", {"hidden_size": 5, "norm": "batch"})
    load_weights(other, Path("trained.pt"), by_torch=True)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())
    Path("hostile.pt").write_bytes(pickle.dumps(Runs(), protocol=2))
    torch.save({"state_dict": Runs()}, "hostile.pth")
    for name in ("hostile.pt", "hostile.pth"):
        for by_torch in (True, False):
            with pytest.raises(ExportError, match="hostile"):
                load_weights(other, Path(name), by_torch=by_torch)
    assert not (folder / "was-run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("0.bias"), r"it lacks \['0.bias'\]"),
        (lambda state: state.update(more=torch.zeros(1)), r"has \['more'\], which the model has not"),
        (lambda state: state.update({"0.bias": torch.zeros(4)}), r"0.bias is float32 \[4\], it must be float32 \[5\]"),
        (
            lambda state: state.update({"0.bias": state["0.bias"].half()}),
            r"0.bias is float16 \[5\], it must be float32",
        ),
    ],
    ids=["missing", "unexpected", "shape", "datatype"],
)
def test_the_checkpoint_of_another_model_is_refused(change: object, words: str, folder: Path) -> None:
    state = dict(trained().state_dict())
    change(state)  # type: ignore[operator]
    save_file(state, "other.safetensors")
    with pytest.raises(ExportError, match=words):
        load_weights(trained(), Path("other.safetensors"))


def test_one_of_two_tied_weights_is_enough(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    state = {name: tensor + 1 for name, tensor in model.state_dict().items() if name != "1.weight"}
    save_file(state, tmp_path / "tied.safetensors")
    load_weights(model, tmp_path / "tied.safetensors")
    assert torch.equal(model[1].weight, state["0.weight"])


def test_an_example_is_written_with_its_datatype_shape_and_bounds() -> None:
    ids = array_as_written("ids=INT64[2, 16]:0:102")["ids"]
    assert (ids.dtype, ids.shape, ids.min(), ids.max()) == (np.int64, (2, 16), 0, 102)
    x = array_as_written("x=FP16[3,4]:0:1")["x"]
    assert (x.dtype, x.shape) == (np.float16, (3, 4))
    assert 0 <= x.min() < x.max() <= 1
    assert array_as_written("mask=BOOL[2,5]")["mask"].dtype == bool


def test_mixed_rows_lie_where_the_example_does() -> None:
    rng = np.random.default_rng(0)
    example = {
        "x": rng.random((3, 5), np.float32),
        "ids": np.array([[0, 10, 20], [1, 11, 21], [2, 12, 22]]),
        "mask": np.array([[True, False], [True, True], [True, False]]),
    }
    more = mixed_rows(example, 50)
    assert {name: (array.dtype, array.shape[1:]) for name, array in more.items()} == {
        name: (array.dtype, array.shape[1:]) for name, array in example.items()
    }
    assert example["x"].min() <= more["x"].min() < more["x"].max() <= example["x"].max()
    for position in range(3):
        assert set(more["ids"][:, position]) == set(example["ids"][:, position])
    assert more["mask"][:, 0].all()
    assert len({row.tobytes() for row in more["x"]}) == 50
