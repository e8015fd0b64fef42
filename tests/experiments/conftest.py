"""Where an experiment under test reads and writes."""

from pathlib import Path

import pytest

from experiments.folders import Folders


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders.under(tmp_path)
