"""Graphs whose tensors lie in a file: ours, which is given as memory, and any other, which is never read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.certificate import open_session
from service.manifest import WEIGHTS_FILE, ArtifactError

WEIGHTS = np.full(4, 1, "<f4").tobytes()
SECRET = np.full(4, 7, "<f4").tobytes()
MARKER = "*/_ORT_MEM_ADDR_/*"  # onnxruntime's own: offset is an address of its memory


def tensor(location: str) -> TensorProto:
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "4096" if location == MARKER else "0"), ("length", "16")):
        made.external_data.add(key=key, value=value)
    return made


def floats(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])


ADD = helper.make_node("Add", ["x", "w"], ["y"])


def graph(nodes: list[onnx.NodeProto], **more: object) -> bytes:
    made = helper.make_graph(nodes, "g", [floats("x")], [floats("y")], **more)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()


def initialiser(location: str) -> bytes:
    return graph([ADD], initializer=[tensor(location)])


def constant(location: str) -> bytes:
    return graph([helper.make_node("Constant", [], ["w"], value=tensor(location)), ADD])


def sparse(location: str) -> bytes:
    indices = helper.make_tensor("indices", TensorProto.INT64, [4], [0, 1, 2, 3])
    return graph([ADD], sparse_initializer=[onnx.SparseTensorProto(values=tensor(location), indices=indices, dims=[4])])


def of_a_subgraph(location: str) -> bytes:
    one = helper.make_graph([ADD], "one", [], [floats("y")], [tensor(location)])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "other", [], [floats("z")])
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("IsNaN", ["most"], ["is_nan"]),
        helper.make_node("Not", ["is_nan"], ["is_number"]),
        helper.make_node("If", ["is_number"], ["y"], then_branch=one, else_branch=other),
    ]
    return graph(nodes)


def compiled(location: str) -> bytes:
    source = {"source": "OpenVINOExecutionProvider", "embed_mode": 0, "main_context": 1}
    return graph(
        [helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context=location, **source)]
    )


PLACES = [initialiser, constant, sparse, of_a_subgraph, compiled]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_no_other_file_is_read_wherever_the_graph_names_it(
    place: Callable[[str], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither from the folder the service was started in nor from elsewhere, even by our own file's name."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for file in ("here/secret", "secret", f"here/{WEIGHTS_FILE}"):
        (tmp_path / file).write_bytes(SECRET)
    for location in ("secret", "./secret", "../secret", str(tmp_path / "secret"), MARKER):
        with pytest.raises(ArtifactError, match="it refers to data outside model.safetensors"):
            open_session(place(location), WEIGHTS, 1)


@pytest.mark.parametrize("place", [initialiser, constant], ids=lambda place: place.__name__)
def test_our_file_is_read_from_memory_whatever_lies_on_the_disk(
    place: Callable[[str], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(SECRET)
    session = open_session(place(WEIGHTS_FILE), WEIGHTS, 1)
    assert session.run(None, {"x": np.zeros(4, "f4")})[0].tolist() == [1, 1, 1, 1]
