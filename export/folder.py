"""The files of an artifact: what they say of themselves, and how they are written."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import onnx
import onnxruntime
import torch
from onnx import ModelProto

from export.onnx_export import opset
from service import certificate
from service.certificate import Run
from service.manifest import (
    GRAPH_FILE,
    MANIFEST_FILE,
    MODEL_VERSION,
    WEIGHTS_FILE,
    ArtifactError,
    Manifest,
    read_regular_file,
)

MAX_FILE_BYTES = 2 * 2**30 - 1  # as the service reads
PROBE_SEED = 7
THREADS = (1, 2, 4)  # 4 also where there are fewer cores: the split of the work counts, not who does it


class Files(NamedTuple):
    """An artifact as it lies in its folder."""

    manifest: Manifest
    graph: bytes
    weights: bytes


def hashes(graph: bytes, weights: bytes) -> dict[str, str]:
    """File name -> sha256, as in the manifest."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in ((GRAPH_FILE, graph), (WEIGHTS_FILE, weights))}


def versions(graph: ModelProto) -> dict[str, str | int]:
    """What it was made with."""
    return {
        "torch": torch.__version__.split("+")[0],
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "opset": opset(graph),
    }


def write_artifact(folder: Path, manifest: Manifest, graph: bytes, weights: bytes) -> None:
    """Write all of it, the manifest last: until then its sha256 say that something is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    files: Mapping[str, bytes] = {WEIGHTS_FILE: weights, GRAPH_FILE: graph, MANIFEST_FILE: manifest.to_json().encode()}
    for name, data in files.items():
        part = folder / f".{name}.part"
        part.write_bytes(data)
        os.replace(part, folder / name)  # noqa: PTH105  # a reader sees the old file or the new one


def read_artifact(folder: Path) -> Files:
    """``<name>/<version>/``. Raises ArtifactError when a file is missing or not as hashed."""
    manifest = Manifest.load(folder)
    graph, weights = (read_regular_file(folder, name, MAX_FILE_BYTES) for name in (GRAPH_FILE, WEIGHTS_FILE))
    for name, sha256 in hashes(graph, weights).items():
        if sha256 != manifest.files[name]:
            raise ArtifactError(f"{name} has sha256 {sha256}, the manifest says {manifest.files[name]}")
    return Files(manifest, graph, weights)


def versions_of(folder: Path) -> list[Path]:
    """The version's folder, or those of a model's folder, the lowest first. Raises ArtifactError when there is none."""
    if (folder / MANIFEST_FILE).exists():
        return [folder]
    found = [file.parent for file in folder.glob(f"*/{MANIFEST_FILE}") if MODEL_VERSION.fullmatch(file.parent.name)]
    if not found:
        raise ArtifactError(f"{folder} is no artifact: it has no {MANIFEST_FILE}, and no folder 1 with one")
    return sorted(found, key=lambda each: int(each.name))


def sessions(files: Files) -> dict[int, Run]:
    """The graph run with each number of threads that is measured with. Raises ArtifactError."""
    return {
        threads: certificate.runner(certificate.open_session(files.graph, files.weights, threads), files.manifest)
        for threads in THREADS
    }
