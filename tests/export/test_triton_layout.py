"""The same folders as Triton's model repository.

Its rules (docs/user_guide/model_repository.md of triton-inference-server/server): ``<model>/<version>/``, a version
being a number that does not begin with 0, others are ignored; of an ONNX model the file is ``model.onnx``, which
onnxruntime opens by its path, so that external data lie beside it; ``config.pbtxt`` may be left out, since the backend
reads inputs and outputs from the graph, and takes a first size of -1 in all of them for rows.

Triton itself with its onnxruntime backend cannot be had from PyPI (nvidia-pytriton's server has the Python backend
alone), so it is not started here.
"""

import re
import shutil
from pathlib import Path

import onnxruntime as ort
import pytest
import torch
from rich.console import Console
from torch import nn

from export import export_model
from service.artifact import Artifact
from service.certificate import (
    DISABLED_OPTIMIZERS,
    all_outputs,
    complete,
    open_session,
    probe_inputs,
    session_options,
)

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
VERSION = re.compile(r"[1-9][0-9]*")


def own(repository: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16))
    export_model(model, {"x": torch.randn(3, 16)}, "own", repository, max_rows=8, console=Console(quiet=True))


@pytest.mark.parametrize("name", [*sorted(folder.name for folder in ARTIFACTS.iterdir() if folder.is_dir()), "own"])
def test_a_model_lies_and_opens_as_triton_has_it(name: str, tmp_path: Path) -> None:
    if name == "own":
        own(tmp_path)
    else:
        shutil.copytree(ARTIFACTS / name, tmp_path / name)
    assert [folder.name for folder in tmp_path.iterdir()] == [name]
    versions = [folder for folder in (tmp_path / name).iterdir() if folder.is_dir()]
    assert versions
    assert all(VERSION.fullmatch(folder.name) for folder in versions)
    for folder in versions:
        artifact = Artifact.read(folder)
        session = ort.InferenceSession(
            folder / "model.onnx", session_options(1), disabled_optimizers=DISABLED_OPTIMIZERS
        )
        tensors = [*session.get_inputs(), *session.get_outputs()]
        required = {tensor.name for tensor in artifact.manifest.inputs if not tensor.optional}
        has_rows = all(not isinstance(node.shape[0], int) for node in tensors if node.name in required)
        assert has_rows == (artifact.manifest.batch_axis == 0)
        served = all_outputs(open_session(artifact.graph, artifact.weights, 1))
        for inputs in probe_inputs(artifact.manifest):
            all_of_them = complete(inputs, artifact.manifest)  # Triton's clients send the states too
            answers = all_outputs(session)(all_of_them)
            assert all(answers[key].tobytes() == array.tobytes() for key, array in served(all_of_them).items())
