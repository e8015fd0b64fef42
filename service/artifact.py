"""An artifact's bytes, read once: what is hashed here is what the runtime is given."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from service.manifest import GRAPH_FILE, WEIGHTS_FILE, ArtifactError, Manifest

MAX_FILE_BYTES = 2 * 2**30 - 1  # onnxruntime takes a graph from memory up to protobuf's limit


@dataclass(frozen=True)
class Artifact:
    """A manifest and the bytes of its two files, whose sha256 are the manifest's."""

    manifest: Manifest
    graph: bytes
    weights: bytes

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``<name>/<version>/``. Raises ArtifactError when a part is missing, a link, or not as hashed."""
        manifest = Manifest.load(folder)
        if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
            raise ArtifactError(f"its manifest is that of {manifest.name}/{manifest.version}")
        graph, weights = (_read_file(folder, name, manifest.files[name]) for name in (GRAPH_FILE, WEIGHTS_FILE))
        return cls(manifest, graph, weights)


def _read_file(folder: Path, name: str, expected_sha256: str) -> bytes:
    try:
        # A link could lead out of the folder; the runtime never sees a path at all.
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise ArtifactError(f"{name} is missing") from error
    except OSError as error:
        raise ArtifactError(f"{name} cannot be opened as a regular file: {error.strerror}") from error
    with open(descriptor, "rb") as file:  # noqa: PTH123  # of a descriptor
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(f"{name} is not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise ArtifactError(f"{name} has {status.st_size} bytes, at most {MAX_FILE_BYTES} are served")
        content = file.read()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != expected_sha256:
        raise ArtifactError(f"{name} has sha256 {sha256}, the manifest says {expected_sha256}")
    return content
