"""An artifact's bytes, read once: what is hashed here is what the runtime is given."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from service.manifest import (
    GRAPH_FILE,
    MAX_FILE_BYTES,
    WEIGHTS_FILE,
    ArtifactError,
    Manifest,
    read_regular_file,
)


@dataclass(frozen=True)
class Artifact:
    """A manifest and the bytes of its two files, whose sha256 are the manifest's."""

    manifest: Manifest
    graph: bytes
    weights: bytes

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``<name>/<version>/``. Raises ArtifactError when a part is missing, a link, or not as hashed."""
        for part in (folder.parent, folder):
            if part.is_symlink():
                raise ArtifactError(f"its folder {part.name} is a link, which could lead out of the model repository")
        manifest = Manifest.load(folder)
        if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
            raise ArtifactError(f"its manifest is that of {manifest.name}/{manifest.version}")
        graph, weights = (_checked(folder, name, manifest.files[name]) for name in (GRAPH_FILE, WEIGHTS_FILE))
        return cls(manifest, graph, weights)


def _checked(folder: Path, name: str, expected_sha256: str) -> bytes:
    content = read_regular_file(folder, name, MAX_FILE_BYTES)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != expected_sha256:
        raise ArtifactError(f"{name} has sha256 {sha256}, the manifest says {expected_sha256}")
    return content
