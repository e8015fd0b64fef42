"""The files of an artifact: what they say of themselves, and how they are written."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import onnx
import onnxruntime as ort
import torch
from onnx import ModelProto
from pydantic import ValidationError

from export.errors import ExportError, one_line
from export.onnx_export import opset
from export.op_certificates import TRIALS
from service import certificate
from service.certificate import Run
from service.manifest import (
    GRAPH_FILE,
    MANIFEST_FILE,
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    MODEL_NAME,
    MODEL_VERSION,
    WEIGHTS_FILE,
    ArtifactError,
    Manifest,
    read_regular_file,
    reasons,
)

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
        "onnxruntime": ort.__version__,
        "opset": opset(graph),
    }


def place_of(repository: str | Path, name: str, version: str, *, replace: bool) -> Path:
    """The folder of a version that is to be written. Raises ExportError when it cannot be called so, or is there."""
    if not MODEL_NAME.fullmatch(name):
        raise ExportError(f"the name {name!r} does not match {MODEL_NAME.pattern}")
    if name in TRIALS:  # each operation has some
        raise ExportError(f"the name {name!r} is that of an operation, which the service has already")
    if not MODEL_VERSION.fullmatch(version):
        raise ExportError(f"version is {version!r}, it must be an integer from 1")
    folder = Path(repository) / name / version
    if not replace and any((folder / file).exists() for file in (MANIFEST_FILE, GRAPH_FILE, WEIGHTS_FILE)):
        raise ExportError(f"{folder} is there already: give another version, or replace it (replace=True, --replace)")
    return folder


@contextmanager
def in_words(name: str) -> Iterator[None]:
    """What makes no artifact leaves as an ExportError."""
    try:
        yield
    except ArtifactError as error:
        reason = one_line(error.__cause__) if error.__cause__ else str(error)
        raise ExportError(f"onnxruntime cannot serve {name}: {reason}") from error
    except ValidationError as error:
        raise ExportError(f"{name} has no manifest: {reasons(error)}") from error


def write_artifact(folder: Path, manifest: Manifest, graph: bytes, weights: bytes) -> None:
    """Write all of it, the manifest last: until then its sha256 say that something is missing.

    Raises ExportError when a file is larger than the service reads, or cannot be written; the folder is then as it was.
    """
    files = {WEIGHTS_FILE: weights, GRAPH_FILE: graph, MANIFEST_FILE: manifest.to_json().encode()}
    for name, data in files.items():
        most = MAX_MANIFEST_BYTES if name == MANIFEST_FILE else MAX_FILE_BYTES
        if len(data) > most:
            raise ExportError(f"{name} would have {len(data)} bytes, at most {most} are read")
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    parts = {name: folder / f".{name}.part" for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in parts.items():
            part.write_bytes(files[name])
        for name, part in parts.items():
            os.replace(part, folder / name)  # noqa: PTH105  # a reader sees the old file or the new one
    except OSError as error:
        for part in parts.values():
            part.unlink(missing_ok=True)
        for each in made:
            with suppress(OSError):  # not there, or something is in it
                each.rmdir()
        raise ExportError(f"{folder} cannot be written: {error.strerror}") from error


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


def unoptimised(threads: int) -> ort.SessionOptions:
    """The options that a session is served with, but that the graph is run as it stands."""
    options = certificate.session_options(threads)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options
