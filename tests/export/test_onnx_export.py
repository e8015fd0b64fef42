"""A graph computes what its module computes, and holds no number of its own: the weights are the checkpoint's bytes."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper
from safetensors.torch import load_file, save
from torch import Tensor, nn

from export.artifact import export_artifact
from export.catalog import CATALOG, REFERENCE_MODELS, ExportSpec
from export.certify import named_outputs
from export.checkpoint import extents, load_checkpoint
from export.errors import ExportError
from export.onnx_export import export_graph
from models.layer_norm import LayerNorm
from models.transformer import Encoder, TransformerConfig
from service.artifact import Artifact
from service.certificate import open_session, runner, samples
from service.manifest import GRAPH_FILE, WEIGHTS_FILE, InputTensor, OutputTensor

ROOT = Path(__file__).parents[2]
SMALL_ENCODERS = ("pre-ln-encoder", "post-ln-encoder")
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d)
COUNTER = "num_batches_tracked"  # of torch's BatchNorm: training counts in it, eval mode never reads it


@dataclass(frozen=True)
class Exported:
    """An artifact, and the torch model of its checkpoint."""

    spec: ExportSpec
    folder: Path
    model: nn.Module
    graph: ModelProto

    def expected_nodes(self, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> int:
        return sum(isinstance(module, kind) for module in self.model.modules())

    def nodes(self, op_type: str) -> list[NodeProto]:
        return [node for graph in graphs(self.graph.graph) for node in graph.node if node.op_type == op_type]


def small_encoder(name: str) -> ExportSpec:
    """The catalogue's encoder with another config: exported in seconds."""
    spec = CATALOG[name]
    config = TransformerConfig(spec.config["placement"], d_model=32, n_heads=4, d_ff=64, n_layers=2)
    shape = [-1, -1, config.d_model]
    return replace(
        spec,
        build=lambda: Encoder(config),
        config=asdict(config),
        inputs=(spec.inputs[0].model_copy(update={"shape": shape, "max_shape": [16, 512, config.d_model]}),),
        outputs=(spec.outputs[0].model_copy(update={"shape": shape}),),
        example_shape=(3, 5, config.d_model),
        probe_shapes=((2, 2, config.d_model), (2, 7, config.d_model)),
        max_rows=16,
    )


@pytest.fixture(scope="module", params=[*REFERENCE_MODELS, *SMALL_ENCODERS])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Every committed artifact as it is committed, and an encoder of each placement exported here."""
    name = request.param
    if name in REFERENCE_MODELS:
        spec, repository = CATALOG[name], ROOT / "artifacts"
    else:
        spec, repository = small_encoder(name), tmp_path_factory.mktemp(name)
        export_artifact(spec, repository)
    folder = repository / name / spec.version
    model = spec.build()
    load_checkpoint(model, folder / WEIGHTS_FILE)
    return Exported(spec, folder, model.eval(), ModelProto.FromString((folder / GRAPH_FILE).read_bytes()))


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and every graph inside a node of it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.type == AttributeProto.GRAPH else []), *attribute.graphs):
                yield from graphs(inner)


def constants(model: ModelProto) -> Iterator[tuple[str, int]]:
    """Name and number of elements of every float constant that the graph itself holds, wherever ONNX lets it."""
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            if tensor.data_type in FLOATS and tensor.data_location != TensorProto.EXTERNAL:
                yield tensor.name, math.prod(tensor.dims)
        for sparse in graph.sparse_initializer:
            yield sparse.values.name, math.prod(sparse.dims)
        for node in graph.node:
            for attribute in node.attribute:
                yield node.name, len(attribute.floats)
                for tensor in (attribute.t, *attribute.tensors):
                    if tensor.data_type in FLOATS:
                        yield node.name, math.prod(tensor.dims)


def test_every_initialiser_reads_exactly_the_bytes_of_its_state_dict_entry(exported: Exported) -> None:
    state = load_file(exported.folder / WEIGHTS_FILE)
    content = (exported.folder / WEIGHTS_FILE).read_bytes()
    found = set()
    for graph in graphs(exported.graph.graph):
        for tensor in graph.initializer:
            if tensor.data_location != TensorProto.EXTERNAL:
                continue
            place = {entry.key: entry.value for entry in tensor.external_data}
            assert place.keys() == {"location", "offset", "length"}
            assert place["location"] == WEIGHTS_FILE
            offset, length = int(place["offset"]), int(place["length"])
            entry = state[tensor.name].numpy()
            assert content[offset : offset + length] == entry.tobytes(), tensor.name
            assert (tuple(tensor.dims), helper.tensor_dtype_to_np_dtype(tensor.data_type)) == (entry.shape, entry.dtype)
            assert not tensor.raw_data
            assert not tensor.float_data
            found.add(tensor.name)
    assert found == {name for name in state if not name.endswith(COUNTER)}


def test_no_float_constant_of_more_than_64_elements_lives_in_the_graph(exported: Exported) -> None:
    assert [(name, size) for name, size in constants(exported.graph) if size > 64] == []


def test_the_graph_says_nothing_of_the_machine_that_exported_it(exported: Exported) -> None:
    content = (exported.folder / GRAPH_FILE).read_bytes()
    for trace in (b"/work", b".py", b"site-packages", b"File ", str(ROOT).encode(), str(Path.home()).encode()):
        assert trace not in content
    for graph in graphs(exported.graph.graph):
        for part in (exported.graph, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
            assert not part.metadata_props
            assert not part.doc_string


def test_the_graph_is_valid_onnx_of_standard_operators(exported: Exported) -> None:
    onnx.checker.check_model(str(exported.folder / GRAPH_FILE), full_check=True)
    assert {node.domain for graph in graphs(exported.graph.graph) for node in graph.node} <= {"", "ai.onnx"}


def test_every_layer_norm_is_one_layer_normalization_node(exported: Exported) -> None:
    assert len(exported.nodes("LayerNormalization")) == exported.expected_nodes(LayerNorm)


def test_every_batch_norm_is_one_batch_normalization_node_that_does_not_train(exported: Exported) -> None:
    nodes = exported.nodes("BatchNormalization")
    assert len(nodes) == exported.expected_nodes(BATCH_NORM)
    for node in nodes:
        assert {attribute.name: attribute.i for attribute in node.attribute}.get("training_mode", 0) == 0
        assert len(node.output) == 1  # no new running statistics


def test_every_model_but_the_baseline_has_a_norm_to_look_at(exported: Exported) -> None:
    norms = exported.expected_nodes(LayerNorm) + exported.expected_nodes(BATCH_NORM)
    assert norms == 0 if exported.spec.name == "lstm-charlm" else norms >= 1


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_onnxruntime_answers_as_torch_does(exported: Exported, batch: int) -> None:
    spec, artifact = exported.spec, Artifact.read(exported.folder)
    run = runner(open_session(artifact.graph, artifact.weights, 1), artifact.manifest)
    rng = np.random.default_rng(batch)
    _, *sizes = spec.inputs[0].shape
    for time in (1, 2, 9) if -1 in sizes else (1,):
        shape = (batch, *(time if size == -1 else size for size in sizes))
        inputs = samples(artifact.manifest, shape, rng)
        served, by_torch = run(inputs), named_outputs(exported.model, artifact.manifest, inputs)
        assert served.keys() == by_torch.keys() == {tensor.name for tensor in spec.outputs}
        for name, array in by_torch.items():
            assert served[name].shape == array.shape
            np.testing.assert_allclose(served[name], array, rtol=spec.rtol, atol=spec.atol)


def test_a_certificate_has_every_claim_and_that_of_a_metric_where_there_is_held_out_data(exported: Exported) -> None:
    manifest = Artifact.read(exported.folder).manifest
    claims = [claim.claim for claim in manifest.certificate.claims]
    expected = ["train_eval_identical", "torch_onnx_parity", "float64_error", "batch_invariant", "thread_invariant"]
    assert claims == expected + ["metric_preserved"] * (exported.spec.held_out is not None)
    assert (manifest.metric is None) == (exported.spec.held_out is None)


@pytest.mark.parametrize("name", CATALOG)
def test_example_sizes_that_vary_are_at_least_2(name: str) -> None:
    # torch.export takes 0 and 1 for constants: such an example would fix the size in the graph.
    spec = CATALOG[name]
    for shape in (spec.example_shape, *spec.probe_shapes):
        for size, declared in zip(shape, spec.inputs[0].shape, strict=True):
            assert size >= 2 if declared == -1 else size == declared


COLUMNS = 100


class HiddenBuffer(nn.Module):
    """A constant that the state_dict leaves out."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.rand(COLUMNS), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


class TensorAttribute(nn.Module):
    """A constant that is not even a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.rand(COLUMNS)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


class TensorInForward(nn.Module):
    """A constant written into the computation."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([float(column) for column in range(COLUMNS)])


class ComputedInForward(nn.Module):
    """The same numbers, computed in the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.arange(x.shape[1])


class ListInForward(nn.Module):
    """A list that torch's exporter writes into a Constant node."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(x.split([1] * COLUMNS, dim=1)[::-1], dim=1)


class SmallTensorInForward(nn.Module):
    """A constant of two elements, as a scale is."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([0.25, 0.5]).sum()


class Branches(nn.Module):
    """A graph with graphs inside: the branches of an If."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = LayerNorm(COLUMNS), nn.Linear(COLUMNS, COLUMNS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: self.norm(x) * 2, lambda x: self.linear(x), (x,))


def graph_of(module: nn.Module) -> ModelProto:
    """The graph of a module over rows of 100 columns, pointing into a checkpoint of its state_dict."""
    tensors = {"datatype": "FP32", "shape": [-1, COLUMNS]}
    x, y = InputTensor(name="x", **tensors), OutputTensor(name="y", **tensors)
    return export_graph(module, [torch.zeros(3, COLUMNS)], [x], [y], extents(save(module.state_dict())))


@pytest.mark.parametrize("module", [HiddenBuffer, TensorAttribute, TensorInForward, ListInForward])
def test_a_large_constant_that_is_not_in_the_checkpoint_stops_the_export(module: type[nn.Module]) -> None:
    with pytest.raises(ExportError, match=r"[cC]onstant .*of 100 elements.*above 64 it must be computed"):
        graph_of(module())


def test_a_small_constant_does_not() -> None:
    assert sum(size for _, size in constants(graph_of(SmallTensorInForward()))) >= 2


def test_graphs_inside_a_graph_are_treated_as_the_outer_one() -> None:
    torch.manual_seed(0)
    module = Branches()
    model = graph_of(module)
    outer, *branches = graphs(model.graph)
    assert len(branches) == 2
    assert [node.op_type for graph in branches for node in graph.node].count("LayerNormalization") == 1
    weights = {tensor.name for graph in (outer, *branches) for tensor in graph.initializer}
    assert weights == module.state_dict().keys()
    assert [(name, size) for name, size in constants(model) if size > 64] == []
    assert str(ROOT).encode() not in model.SerializeToString()
    session = open_session(model.SerializeToString(), save(module.state_dict()), 1)
    for sign in (1, -1):
        x = sign * np.random.default_rng(0).random((2, COLUMNS), "f4")
        np.testing.assert_allclose(
            session.run(None, {"x": x})[0], module(torch.from_numpy(x)).detach(), rtol=1e-4, atol=1e-5
        )


def test_a_large_constant_that_is_computed_in_the_graph_does_not() -> None:
    assert [size for _, size in constants(graph_of(ComputedInForward())) if size > 64] == []
