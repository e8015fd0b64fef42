"""``export_model``: any module and an example -> an artifact, measured on that example; or the reason why not."""

import copy
import errno
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tritonclient.http as triton
from rich.console import Console
from safetensors.torch import load, load_file
from torch import Tensor, nn

from export import ExportError, export_model
from export.example import resized
from export.factory import CONSTANTS
from service.artifact import Artifact
from service.certificate import open_session, probe_inputs, runner
from service.manifest import Claim, Manifest

COLUMNS = 6
QUIET = Console(quiet=True)


def export(model: nn.Module, repository: Path, name: str = "mine", **more: Any) -> Manifest:
    example = more.pop("example_inputs", None) or {"x": torch.randn(4, COLUMNS)}
    return export_model(model, example, name, repository, **({"max_rows": 16, "console": QUIET} | more))


def claims(manifest: Manifest) -> dict[str, Claim]:
    return {claim.claim: claim for claim in manifest.certificate.claims}


def served(repository: Path, manifest: Manifest) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    artifact = Artifact.read(repository / manifest.name / manifest.version)
    return runner(open_session(artifact.graph, artifact.weights, 1), artifact.manifest)


class Tagger(nn.Module):
    """Integers, a mask and real numbers in, a mapping with a tuple out; positions are learned, of up to 24."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(11, 8), nn.Embedding(24, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)
        self.register_buffer("scale", torch.full((8,), 2.0))

    def forward(self, ids: Tensor, weight: Tensor, padding: Tensor) -> dict[str, Any]:
        x = self.norm(self.embedding(ids) + self.position(torch.arange(ids.shape[1]))) * self.scale
        x = x * weight[:, None, None]
        kept = (~padding).float()
        # A product, not a mean: onnxruntime's ReduceMean over T has other last bits for one row than for several.
        mean = (kept / kept.sum(1, keepdim=True))[:, None] @ x  # (N, 1, T) @ (N, T, 8) -> (N, 1, 8)
        return {"logits": self.head(x), "pooled": (mean.squeeze(1), None), "longest": (~padding).sum(1)}


IDS = torch.tensor([[1, 9, 4, 4, 2], [3, 2, 2, 5, 1], [7, 1, 1, 1, 1]])
PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] + [True] * 4])


class Made(NamedTuple):
    """A module, and what was exported of it."""

    model: nn.Module
    repository: Path
    manifest: Manifest


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.manual_seed(0)
    model, repository = Tagger(), tmp_path_factory.mktemp("tagger")
    example = {"ids": IDS, "weight": torch.tensor([0.5, 1, 2]), "padding": PADDING}
    return Made(model, repository, export(model, repository, "tagger", example_inputs=example))


def test_sizes_that_vary_are_found_and_how_far(tagger: Made) -> None:
    ids, weight, padding = tagger.manifest.inputs
    assert (ids.shape, weight.shape, padding.shape) == ([-1, -1], [-1], [-1, -1])
    assert ids.max_shape == padding.max_shape == [16, 24]  # as far as the learned positions go
    assert weight.max_shape is None
    assert tagger.manifest.config["sizes"]["ids[1]"] == "varies, 1 to 24"


def test_integers_are_bounded_by_the_examples(tagger: Made) -> None:
    ids, weight, padding = tagger.manifest.inputs
    assert (ids.minimum, ids.maximum) == (1, 9)
    assert (weight.minimum, padding.maximum) == (None, None)


def test_outputs_have_the_names_they_are_returned_by(tagger: Made) -> None:
    outputs = {output.name: (output.datatype, output.shape) for output in tagger.manifest.outputs}
    assert outputs == {
        "logits": ("FP32", [-1, -1, 3]),
        "pooled_0": ("FP32", [-1, 8]),
        "longest": ("INT64", [-1]),
    }


def test_what_was_recorded_lies_where_the_example_does(tagger: Made) -> None:
    batches = probe_inputs(tagger.manifest)
    assert [batch["ids"].shape[1] for batch in batches] == [5, 6]
    for batch in batches:
        assert set(batch["ids"].ravel()) <= set(range(1, 10))
        assert not batch["padding"].all(axis=1).any()
    assert (batches[0]["ids"][:3] == IDS.numpy()).all()


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (2, 24), (7, 3)])
def test_it_answers_as_the_module_at_other_sizes(tagger: Made, rows: int, length: int) -> None:
    rng = np.random.default_rng(0)
    inputs = {
        "ids": rng.integers(1, 10, (rows, length)),
        "weight": rng.random(rows, np.float32),
        "padding": np.zeros((rows, length), bool),
    }
    with torch.no_grad():
        expected = tagger.model.eval()(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    got = served(tagger.repository, tagger.manifest)(inputs)
    np.testing.assert_allclose(got["logits"], expected["logits"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["pooled_0"], expected["pooled"][0], rtol=1e-5, atol=1e-6)
    assert got["longest"].tolist() == expected["longest"].tolist() == [length] * rows


def test_its_weights_are_the_state_dict_and_the_graph_holds_none(tagger: Made) -> None:
    folder = tagger.repository / "tagger" / "1"
    state = load_file(folder / "model.safetensors")
    assert state.keys() == tagger.model.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in tagger.model.state_dict().items())
    assert tagger.model.head.weight.detach().numpy().tobytes() not in (folder / "model.onnx").read_bytes()  # type: ignore[union-attr,operator]


def test_every_claim_is_measured(tagger: Made) -> None:
    measured = claims(tagger.manifest)
    expected = ["train_eval_identical", "torch_onnx_parity", "float64_error", "batch_invariant", "thread_invariant"]
    assert list(measured) == expected
    assert all(claim.holds for claim in measured.values())
    assert measured["batch_invariant"].measured["batch_sizes"][-1] == 16


def test_padding_is_measured(tagger: Made) -> None:
    # The mean leaves masked positions out, the logits are each position's own.
    note, bounds = tagger.manifest.config["notes"]
    assert bounds == "ids is served from 1 to 9, which is what was given; bounds (--bounds ids=LOW:HIGH) say otherwise"
    assert note.startswith("padding: positions where padding is True change the answers of the rest by ")


def test_it_is_served_over_http(tagger: Made, serve: Any) -> None:
    inputs = {"ids": IDS.numpy(), "weight": np.array([0.5, 1, 2], "f4"), "padding": PADDING.numpy()}
    datatypes = {"ids": "INT64", "weight": "FP32", "padding": "BOOL"}
    with serve(model_repository=tagger.repository) as address:
        client = triton.InferenceServerClient(address.removeprefix("http://"))
        sent = [
            triton.InferInput(name, list(array.shape), datatypes[name]).set_data_from_numpy(array)
            for name, array in inputs.items()
        ]
        answer = client.infer("tagger", sent)
        refused = httpx.post(
            f"{address}/v2/models/tagger/infer",
            json={
                "inputs": [
                    {"name": "ids", "datatype": "INT64", "shape": [1, 1], "data": [10]},
                    {"name": "weight", "datatype": "FP32", "shape": [1], "data": [1]},
                    {"name": "padding", "datatype": "BOOL", "shape": [1, 1], "data": [False]},
                ]
            },
        )
        certificate = httpx.get(f"{address}/v1/models/tagger/certificate").json()
        client.close()
    with torch.no_grad():
        expected = tagger.model.eval()(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    np.testing.assert_allclose(answer.as_numpy("logits"), expected["logits"], rtol=1e-5, atol=1e-6)
    assert refused.status_code == 400
    assert "9" in refused.json()["error"]
    checked = {claim["claim"]: (claim["holds"], claim["checked"]) for claim in certificate["claims"]}
    assert checked["torch_onnx_parity"] == checked["batch_invariant"] == (True, "start")


def test_the_module_is_left_as_it_was(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(COLUMNS, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    before = copy.deepcopy(model.state_dict())
    manifest = export(model, tmp_path)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert manifest.inputs[0].name == "x"  # by position: nn.Sequential calls it input
    cause = claims(manifest)["train_eval_identical"].measured["cause"]
    assert cause.startswith("1 (BatchNorm1d): in training it normalises by the batch")
    assert claims(manifest)["batch_invariant"].holds


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its own
def test_a_compiled_module_is_exported_as_the_one_that_it_was_compiled_from(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(COLUMNS, 4))
    export(torch.compile(model), tmp_path)  # type: ignore[arg-type]
    assert load_file(tmp_path / "mine" / "1" / "model.safetensors").keys() == model.state_dict().keys()


class NoRows(nn.Module):
    """A distribution over the nodes of one graph: nothing that has rows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        return (edges @ self.linear(nodes)).flatten().softmax(0)


def test_a_model_without_a_batch_axis_is_served_and_never_merged(tmp_path: Path, serve: Any) -> None:
    torch.manual_seed(0)
    model = NoRows().eval()
    example = {"nodes": torch.randn(5, 3), "edges": torch.rand(5, 5)}
    manifest = export(model, tmp_path, example_inputs=example, batch_axis=None)
    assert manifest.batch_axis is None
    assert [tensor.shape for tensor in manifest.inputs] == [[-1, 3], [-1, -1]]
    assert "batch_invariant" not in claims(manifest)
    assert all(claim.holds for claim in claims(manifest).values())
    nodes, edges = torch.randn(4, 3), torch.rand(4, 4)
    with serve(model_repository=tmp_path) as address:
        body = {
            "inputs": [
                {"name": name, "datatype": "FP32", "shape": list(tensor.shape), "data": tensor.tolist()}
                for name, tensor in (("nodes", nodes), ("edges", edges))
            ]
        }
        answer = httpx.post(f"{address}/v2/models/mine/infer", json=body).json()["outputs"][0]
    assert answer["shape"] == [4]
    np.testing.assert_allclose(answer["data"], model(nodes, edges).tolist(), rtol=1e-5)


class Tables(nn.Module):
    """Tied weights, a buffer that is not saved, and a tensor that is not even a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(COLUMNS, COLUMNS), nn.Linear(COLUMNS, COLUMNS)
        self.two.weight = self.one.weight
        self.register_buffer("table", torch.randn(COLUMNS, 20), persistent=False)
        self.attribute = torch.randn(20, 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)) @ self.table @ self.attribute


def test_constants_that_are_not_in_the_state_dict_stand_beside_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Tables()
    export(model, tmp_path)
    content = (tmp_path / "mine" / "1" / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    constants = json.loads(header["__metadata__"][CONSTANTS])
    assert load(content).keys() - model.state_dict().keys() == set(constants)
    assert len(constants) == 2
    assert torch.equal(load(content)["table"], model.table)  # type: ignore[arg-type]


def test_data_are_measured_on_and_bound_integers(tmp_path: Path) -> None:
    file = tmp_path / "rows.npz"
    np.savez(file, ids=np.array([[0, 1, 2], [10, 3, 4]]))
    model = nn.Embedding(11, 4)
    example = {"ids": torch.tensor([[1, 2, 3], [4, 5, 6]])}
    manifest = export(model, tmp_path, example_inputs=example, data=file, samples=0)
    assert (manifest.inputs[0].minimum, manifest.inputs[0].maximum) == (0, 10)
    assert claims(manifest)["train_eval_identical"].measured["rows_compared"] == 4
    manifest = export(model, tmp_path, example_inputs=example, bounds={"ids": (0, 9)}, version=2, samples=7)
    assert (manifest.version, manifest.inputs[0].maximum) == ("2", 9)
    assert claims(manifest)["train_eval_identical"].measured["rows_compared"] == 9


# sizes: none is served at which the model fails


class Windows(nn.Module):
    """Differences to the next step but one, normalised over time by their deviation: of one step there is none."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        steps = (x[:, 2:] - x[:, :-2]) * mask[:, 2:, None]
        return steps / (steps.std(1, keepdim=True) + 1e-3)


def test_a_size_that_is_too_small_or_unequal_is_refused_by_its_reason(tmp_path: Path, serve: Any) -> None:
    torch.manual_seed(0)
    example = {"x": torch.randn(2, 6, 3), "mask": torch.rand(2, 6)}
    x, mask = export(Windows(), tmp_path, example_inputs=example).inputs
    assert (x.shape, x.min_shape, x.max_shape) == ([-1, -1, -1], [1, 4, 1], [16, 48, 24])  # of three: one difference
    assert x.axes == [None, "x_1", None]
    assert (mask.shape, mask.min_shape, mask.axes) == ([-1, -1], [1, 4], [None, "x_1"])

    def status(steps: int, of_mask: int) -> tuple[int, str]:
        inputs = (("x", [1, steps, 3]), ("mask", [1, of_mask]))
        body = {
            "inputs": [
                {"name": name, "datatype": "FP32", "shape": shape, "data": [0.5] * int(np.prod(shape))}
                for name, shape in inputs
            ]
        }
        answer = httpx.post(f"{address}/v2/models/mine/infer", json=body)
        return answer.status_code, answer.json().get("error", "")

    with serve(model_repository=tmp_path) as address:
        assert status(4, 4)[0] == status(48, 48)[0] == 200
        assert status(3, 3) == (400, "input x has shape [1, 3, 3], its sizes must be at least [1, 4, 1]")
        assert status(49, 49)[0] == 400
        code, words = status(5, 6)
    assert code == 400
    assert words.startswith("input mask has size 6 along axis 1, input x along axis 1 has 5")


class Windowed(nn.Module):
    """Pads to whole windows of three: another way through forward at every multiple of it."""

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        if steps % 3:
            x = F.pad(x, (0, 0, 0, 3 - steps % 3))
        return x.reshape(x.shape[0], -1, 3, x.shape[2]).sum(2)


class LastSteps(nn.Module):
    """The state at each row's last step, which lies in the sequence."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        last = (lengths - 1)[:, None, None].expand(-1, 1, x.shape[2])
        return x.gather(1, last).squeeze(1)


@pytest.mark.parametrize(
    ("model", "example", "sizes"),
    [
        (Windowed(), {"x": torch.randn(2, 4, 3)}, [4]),
        (LastSteps(), {"x": torch.randn(3, 6, 3), "lengths": torch.tensor([3, 4, 6])}, range(6, 49)),
    ],
)
def test_at_every_size_that_is_admitted_the_answer_is_torchs(
    model: nn.Module, example: dict[str, Tensor], sizes: Sequence[int], tmp_path: Path
) -> None:
    manifest = export(model, tmp_path, example_inputs=example)
    x = manifest.inputs[0]
    least, most = (x.min_shape or [1, x.shape[1]])[1], (x.max_shape or x.shape)[1]
    assert [*range(least, most + 1)] == [*sizes]
    run = served(tmp_path, manifest)
    for size in sizes:
        arrays = resized({name: tensor.numpy() for name, tensor in example.items()}, {("x", 1): size})
        with torch.no_grad():
            expected = model(*(torch.from_numpy(array) for array in arrays.values()))
        np.testing.assert_allclose(run(arrays)["y"], expected, rtol=1e-5, atol=1e-6)


# a version that is there


def test_a_version_that_is_there_is_replaced_only_on_request(tmp_path: Path) -> None:
    export(nn.LayerNorm(COLUMNS), tmp_path)
    before = (tmp_path / "mine" / "1" / "manifest.json").read_bytes()
    with pytest.raises(ExportError, match="is there already: give another version, or replace it"):
        export(nn.LayerNorm(COLUMNS), tmp_path, task="another")
    assert (tmp_path / "mine" / "1" / "manifest.json").read_bytes() == before
    export(nn.LayerNorm(COLUMNS), tmp_path, task="another", replace=True)
    assert Manifest.load(tmp_path / "mine" / "1").task == "another"


def test_a_full_disk_leaves_the_version_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(nn.LayerNorm(COLUMNS), tmp_path)
    folder = tmp_path / "mine" / "1"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    written = Path.write_bytes

    def full(file: Path, data: bytes) -> int:
        if "manifest" in file.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(file, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ExportError, match="cannot be written: No space left on device"):
        export(nn.Linear(COLUMNS, 2), tmp_path, replace=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_full_disk_leaves_nothing_of_a_new_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(nn.LayerNorm(COLUMNS), tmp_path)

    def full(_file: Path, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for name, version in (("mine", 2), ("new", 1)):
        with pytest.raises(ExportError, match="cannot be written"):
            export(nn.LayerNorm(COLUMNS), tmp_path, name, version=version)
    assert [folder.name for folder in tmp_path.iterdir()] == ["mine"]
    assert [folder.name for folder in (tmp_path / "mine").iterdir()] == ["1"]


def test_trained_weights_without_a_manifest_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine" / "1").mkdir(parents=True)
    (tmp_path / "mine" / "1" / "model.safetensors").write_bytes(b"trained")
    with pytest.raises(ExportError, match="is there already"):
        export(nn.LayerNorm(COLUMNS), tmp_path)


# what cannot be exported


class Dropping(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5)


class Counting(nn.Linear):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) + self.calls  # type: ignore[operator]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class TwoRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)


class Averaging(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean()


class Texts(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x, "text"


class Unfaithful(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + (0.01 if torch.compiler.is_exporting() else 0.0)


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.bfloat16()


class Columns(nn.Module):
    """A table for each column: what the first may be, the second may not."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Embedding(100, 2), nn.Embedding(2, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.one(ids[:, 0]) + self.two(ids[:, 1])


class Summed(nn.Module):
    """One table for a sum of two."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.table(a + b)


@pytest.mark.parametrize(
    ("model", "more", "words"),
    [
        (
            Columns(),
            {"example_inputs": {"ids": torch.tensor([[0, 1], [99, 0]])}},
            "fails where all of ids is 99, .* IndexError.*an input of each part that has bounds of its own",
        ),
        (
            Summed(),
            {"example_inputs": {"a": torch.tensor([[1], [8]]), "b": torch.tensor([[8], [1]])}},
            "fails where all of a is 8",
        ),
        (nn.Identity(), {"config": {"dtype": torch.float32}}, "config cannot be written as JSON: TypeError"),
        (
            nn.Bilinear(2, 2, 2),
            {"example_inputs": {"input1": torch.eye(2), "inptu2": torch.zeros(2, 2)}},
            "the inputs are called input1, inptu2, of which forward knows input1 alone: it takes input1, input2",
        ),
        (nn.Identity(), {"precision": "int4"}, "precision is 'int4', it must be fp16 or int8, or None"),
        (nn.Identity(), {"outputs": "y"}, "outputs are 'y'; it must be a list of 1 names"),
        (nn.Identity(), {"example_inputs": [torch.ones(2, 2)]}, "inputs are a list, they must be a dict of tensors"),
        (nn.Identity(), {"example_inputs": {"x": torch.tensor([[1.0], [torch.nan]])}}, "input x has nan in it"),
        (nn.Linear, {}, "the model is <class .*Linear.*, it must be a torch.nn.Module"),
        (nn.Identity(), {"samples": -1}, "samples is -1, it must be at least 0"),
        (Dropping(COLUMNS, 2), {}, r"random numbers are drawn in the Dropping itself.*drop only `if self.training`"),
        (nn.Sequential(Counting(COLUMNS, 2)), {}, r"keeps state from one call to the next \(0.calls\): take it as an"),
        (Branching(), {}, r"torch.export cannot take the model: .*torch.where, or use torch.cond"),
        (TwoRows(), {}, r"output y has shape .* its first size must be the number of rows"),
        (Averaging(), {}, r"output y has shape \[\], its first size must be the number of rows.*batch_axis=None"),
        (Texts(), {}, r"the module returns a str as y_1; only tensors can be served"),
        (Unfaithful(), {}, r"the graph is not the module for 1 rows: y differs from torch's by up to 0.01"),
        (nn.BatchNorm1d(COLUMNS, track_running_stats=False), {}, r"does not take 1 rows: .*normalises by its batch"),
        (nn.Linear(COLUMNS + 1, 2), {}, r"cannot be run on the example inputs: RuntimeError: mat1 and mat2"),
        (nn.Identity(), {"example_inputs": {"x": torch.zeros(2, 2, dtype=torch.bfloat16)}}, "x is bfloat16"),
        (nn.Bilinear(2, 2, 2), {"example_inputs": {"a": torch.zeros(2, 2), "b": torch.zeros(3, 2)}}, "as many rows"),
        (nn.Identity(), {"name": "no/path"}, "the name 'no/path' does not match"),
        (nn.Identity(), {"name": "layer_norm"}, "the name 'layer_norm' is that of an operation"),
        (nn.Identity(), {"max_shape": {"z": [2, 2]}}, "max_shape has 'z' in it, the inputs are x"),
        (nn.Identity(), {"data": {"x": torch.zeros(1, COLUMNS), "z": torch.zeros(1)}}, "the data have z, the inputs"),
        (nn.Identity(), {"outputs": ["x"]}, r"outputs are called \['x'\], inputs \['x'\]: each needs a name"),
        (nn.Identity(), {"max_rows": 0}, "mine has no manifest: max_rows: Input should be greater than or equal to 1"),
        (nn.Linear(COLUMNS, 2, dtype=torch.bfloat16), {}, "cannot be run on the example inputs"),
        (Halved(), {}, r"the module returns y as torch.bfloat16, .* cast it, as by .float\(\)"),
        (
            nn.Embedding(11, 2),
            {"example_inputs": {"ids": torch.tensor([[1], [2]])}, "bounds": {"ids": (0, 11)}},
            "the model fails where all of ids is 11, and integers are served .*: IndexError",
        ),
        (nn.Identity(), {"version": "0"}, "version is '0', it must be an integer from 1"),
        (nn.Identity(), {"batch_axis": 1}, "batch_axis is 1, it must be 0 or None"),
        (
            nn.Identity(),
            {"outputs": ["y", "z"]},
            r"outputs are \['y', 'z'\]; it must be a list of 1 names, the module returns y",
        ),
    ],
)
def test_what_cannot_be_exported_says_why_and_leaves_the_folder_as_it_was(
    model: nn.Module, more: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "1").mkdir(parents=True)
    (tmp_path / "mine" / "1" / "manifest.json").write_text("served so far")
    with pytest.raises(ExportError, match=words):
        export(model, tmp_path, replace=True, **more)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["manifest.json"]
    assert (tmp_path / "mine" / "1" / "manifest.json").read_text() == "served so far"
