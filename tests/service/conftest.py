"""A manifest to change one thing of."""

from collections.abc import Callable
from typing import Any

import pytest

from service.manifest import Manifest, Probe


def _manifest(**changes: Any) -> Manifest:
    document: dict[str, Any] = {
        "name": "m",
        "version": "1",
        "batch_axis": 0,
        "max_rows": 8,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
        "task": "a test",
        "config": {},
        "files": {"model.onnx": "0" * 64, "model.safetensors": "0" * 64},
        "versions": {},
        "probe": {"seed": 7, "shapes": [[2, 3]], "outputs": Probe.pack([]), "atol": 1e-5, "rtol": 1e-5},
        "certificate": {"model_name": "m", "model_version": "1", "claims": []},
    }
    return Manifest.model_validate(document | changes)


@pytest.fixture(scope="session")
def manifest_of() -> Callable[..., Manifest]:
    """``manifest_of(max_rows=4)``: a good manifest with these fields changed."""
    return _manifest
