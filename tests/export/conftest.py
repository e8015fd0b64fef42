"""One fresh export of every reference model, from the committed checkpoints, that several files of tests look at."""

import io
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console
from torch.onnx._internal.exporter import _registration

from export import certify
from export.__main__ import main
from export.catalog import CATALOG, REFERENCE_MODELS
from service.manifest import WEIGHTS_FILE

ARTIFACTS = Path(__file__).parents[2] / "artifacts"


EXPORT_TIMEOUT_S = 900  # of the test that comes first and waits for the export of every model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "fresh_export" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(EXPORT_TIMEOUT_S))


@pytest.fixture(scope="session", autouse=True)
def torchs_operators_are_compiled_once() -> Iterator[None]:
    """torch.onnx compiles the same 500 functions for every export: a second each, and we export often."""
    apis = _registration.onnxscript_apis
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apis, "get_torchlib_ops", cache(apis.get_torchlib_ops))
        yield


class FreshExport(NamedTuple):
    """What ``python -m export --repository repository`` left, printed and returned."""

    repository: Path
    printed: str
    status: int


@pytest.fixture(scope="session")
def fresh_export(tmp_path_factory: pytest.TempPathFactory) -> FreshExport:
    repository = tmp_path_factory.mktemp("fresh_export")
    for name in REFERENCE_MODELS:
        folder = Path(name) / CATALOG[name].version
        (repository / folder).mkdir(parents=True)
        shutil.copy(ARTIFACTS / folder / WEIGHTS_FILE, repository / folder)
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        # All sizes take five minutes; that the committed certificates tried them all is a test of its own.
        patch.setattr(certify, "BATCH_SIZES", (1, 2, 7))
        status = main(["--repository", str(repository)], Console(file=printed, width=200))
    return FreshExport(repository, printed.getvalue(), status)
