import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.artifact import Artifact
from service.manifest import ArtifactError, Manifest, Probe, RecordedTensor

ARTIFACTS = Path(__file__).parents[2] / "artifacts"

X = {"name": "x", "datatype": "FP32", "shape": [-1, 64]}
CLAIM = {"claim": "c", "holds": True, "measured": {}, "how": "", "checked": "export"}
OF_TORCH = CLAIM | {"claim": "torch_onnx_parity"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a good artifact, to spoil."""
    return Path(shutil.copytree(ARTIFACTS / "ln-mlp-digits" / "1", tmp_path / "ln-mlp-digits" / "1"))


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_is_written_is_read_back(manifest_of: Callable[..., Manifest], tmp_path: Path) -> None:
    for manifest in (manifest_of(), manifest_of(batch_axis=None, alphabet="ab")):
        (tmp_path / "manifest.json").write_text(manifest.to_json())
        assert Manifest.load(tmp_path) == manifest


def test_a_flag_is_written_down_only_where_it_is_set(manifest_of: Callable[..., Manifest]) -> None:
    assert "optional" not in manifest_of().to_json()
    assert "on_request" not in manifest_of().to_json()
    x = {"name": "x", "datatype": "FP32", "shape": [-1, 3]}
    manifest = manifest_of(
        inputs=[x, x | {"name": "h", "optional": True}], outputs=[x, x | {"name": "y", "on_request": True}]
    )
    document = json.loads(manifest.to_json())
    assert document["inputs"][1]["optional"] is document["outputs"][1]["on_request"] is True
    assert Manifest.model_validate(document) == manifest


def test_a_probes_outputs_are_kept_to_the_bit() -> None:
    outputs = [{"y": np.array([[1.5, np.nan]], "f4"), "z": np.array([-0.0], "f4")}, {"y": np.array([3], "f4")}]
    probe = Probe(seed=1, shapes=[[1]], outputs=Probe.pack(outputs), atol=0, rtol=0)
    assert probe.expected().tobytes() == np.array([1.5, np.nan, -0.0, 3], "f4").tobytes()


def recorded(*arrays: np.ndarray, **changes: Any) -> dict[str, Any]:
    """A probe whose inputs ``x`` are these."""
    probe = Probe(
        seed=1,
        shapes=[list(array.shape) for array in arrays],
        inputs=[{"x": RecordedTensor.of(array)} for array in arrays],
        outputs="",
        atol=0,
        rtol=0,
    )
    return {"probe": probe.model_dump() | changes}


@pytest.mark.parametrize("dtype", ["bool", "u1", ">i8", "f2", "f4", ">f8"])
def test_recorded_inputs_are_kept_to_the_bit(dtype: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]], dtype).T
    datatype = {"b": "BOOL", "u": "UINT8", "i": "INT64", "f": f"FP{array.dtype.itemsize * 8}"}[array.dtype.kind]
    read = RecordedTensor.of(array).array(datatype)
    assert (read == array).all()
    assert read.shape == (3, 2)


@pytest.mark.parametrize("data", ["AAAA", "*"])
def test_recorded_inputs_that_are_damaged_are_refused(data: str) -> None:
    with pytest.raises(ArtifactError, match="the probe's inputs in manifest.json are not"):
        RecordedTensor(shape=[2, 3], data=data).array("FP32")


def test_recorded_inputs_may_vary_where_the_first_has_no_axis(manifest_of: Callable[..., Manifest]) -> None:
    x, y = np.zeros((2, 3), "f4"), RecordedTensor.of(np.zeros((2, 1, 4), "f4"))
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "y", "datatype": "FP32", "shape": [-1, 1, -1]},
    ]
    changes = recorded(x)
    changes["probe"]["inputs"][0]["y"] = y
    assert manifest_of(inputs=inputs, **changes).probe.inputs is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (recorded(np.zeros((2, 64), "f4"), shapes=[[3, 64]]), "the probe's inputs have not the shapes"),
        (recorded(np.zeros((2, 64), "f4"), shapes=[[2, 64], [2, 64]]), "the probe's inputs have not the shapes"),
        (recorded(np.zeros((2, 3), "f4")), r"the probe has x \[2, 3\], which does not fit \[-1, 64\]"),
        (recorded(np.zeros((2, 3), "f4"), inputs=[{}]), "the probe's inputs are not those of the model, x"),
        ({"name": "../x"}, "name: String should match pattern"),
        ({"version": "01"}, "version: String should match pattern"),
        ({"batch_axis": 1}, "batch_axis: Input should be 0"),
        ({"max_rows": 0}, "max_rows: Input should be greater than or equal to 1"),
        ({"inputs": []}, "inputs: List should have at least 1 item"),
        (
            {"inputs": [{"name": "x", "datatype": "FLOAT", "shape": [-1]}]},
            "datatype is 'FLOAT', it must be one of BOOL",
        ),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64]}]}, "its first size must be -1"),
        (
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2], "max_shape": [1]}]},
            r"max_shape \[1\] has not the rank of shape",
        ),
        (
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2], "axes": ["T"]}]},
            r"axes \['T'\] has not the rank of shape",
        ),
        (
            recorded(np.zeros((2, 64), "f4"), by="onnxruntime")
            | {"certificate": {"model_name": "ln-mlp-digits", "model_version": "1", "claims": [OF_TORCH]}},
            "the probe is by onnxruntime, the certificate has claims that only torch can make",
        ),
        ({"outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}] * 2}, "two tensors have the same name"),
        ({"files": {"model.onnx": "0" * 64}}, r"files are \['model.onnx'\], they must be model.onnx and model.safe"),
        (
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 0]}]},
            r"a size is 0, it must be -1 \(varies\) or at",
        ),
        (
            {"certificate": {"model_name": "another", "model_version": "1", "claims": []}},
            "certificate is that of another/1",
        ),
        (
            {"certificate": {"model_name": "ln-mlp-digits", "model_version": "1", "claims": [CLAIM, CLAIM]}},
            "makes a claim twice",
        ),
        (
            {
                "certificate": {
                    "model_name": "ln-mlp-digits",
                    "model_version": "1",
                    "claims": [CLAIM | {"checked": "start"}],
                }
            },
            "checked at start, which only a service can",
        ),
        ({"inputs": [X | {"optional": True}]}, "x is optional, which the first input cannot be"),
        (
            {"inputs": [X, {"name": "z", "datatype": "FP32", "shape": [-1, -1], "optional": True}]},
            "z is optional and varies in size",
        ),
        (
            {"inputs": [X, {"name": "z", "datatype": "FP32", "shape": [-1, 2, -1]}]},
            r"z \[-1, 2, -1\] varies where x \[-1, 64\] has no axis",
        ),
        (
            {"outputs": [{"name": "y", "datatype": "FP32", "shape": [-1], "on_request": True}]},
            "every output is on_request",
        ),
        ({"batch_axes": 0}, "batch_axes: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_field_is_named(folder: Path, changes: dict[str, Any], words: str) -> None:
    edit(folder, **changes)
    with pytest.raises(ArtifactError, match=words):
        Artifact.read(folder)


def test_three_wrong_fields_are_named_and_the_others_counted(folder: Path) -> None:
    edit(folder, name="../x", version="01", batch_axis=1, max_rows=0, bogus=1)
    with pytest.raises(ArtifactError, match=r"^manifest.json: name: .*; version: .*; batch_axis: [^;]*; and 2 more$"):
        Artifact.read(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "ln-mlp-digits"'])
def test_a_manifest_that_is_not_json_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"manifest.json: the document: "):
        Artifact.read(folder)


def test_a_manifest_of_megabytes_is_refused_unread(folder: Path) -> None:
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(2**30)  # sparse: a gibibyte that takes no room
    with pytest.raises(ArtifactError, match="1073741824 bytes, at most 16777216 are read"):
        Artifact.read(folder)


def test_a_probe_that_is_not_base64_is_refused(manifest_of: Callable[..., Manifest]) -> None:
    probe = manifest_of().probe.model_copy(update={"outputs": "?"})
    with pytest.raises(ArtifactError, match="not base64 of float32"):
        probe.expected()


def test_the_bytes_read_are_those_that_were_hashed(folder: Path) -> None:
    artifact = Artifact.read(folder)
    assert artifact.graph == (folder / "model.onnx").read_bytes()
    assert artifact.weights == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"^{name} is missing$"):
        Artifact.read(folder)


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_one_changed_bit_is_noticed(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} has sha256 [0-9a-f]{{64}}, the manifest says [0-9a-f]{{64}}"):
        Artifact.read(folder)


def test_a_link_is_refused_even_to_the_right_bytes(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(ArtifactError, match="model.safetensors cannot be read: it is a link") as error:
        Artifact.read(folder)
    assert str(tmp_path) not in str(error.value)


def test_a_folder_in_a_files_place_is_refused(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    with pytest.raises(ArtifactError, match="model.onnx is not a regular file"):
        Artifact.read(folder)


def test_a_manifest_of_another_folder_is_refused(folder: Path) -> None:
    other = folder.parents[1] / "another" / "2"
    shutil.copytree(folder, other)
    with pytest.raises(ArtifactError, match="its manifest is that of ln-mlp-digits/1"):
        Artifact.read(other)
