"""The files of an artifact: what they say of themselves, and how they are written."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime
import torch
from onnx import ModelProto

from export.onnx_export import opset
from service.manifest import GRAPH_FILE, MANIFEST_FILE, WEIGHTS_FILE, Manifest

PROBE_SEED = 7
THREADS = (1, 2, 4)  # 4 also where there are fewer cores: the split of the work counts, not who does it


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
