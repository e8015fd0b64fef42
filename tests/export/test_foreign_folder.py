"""``export`` is used from a folder that is not ours, with packages called as ours are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.manifest import Manifest

ROOT = Path(__file__).parents[2]
MODELS = """
import torch
from torch import nn


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))
"""
SCRIPT = """
import sys
import models.own
import torch
from export import export_model

export_model(models.own.classifier(), {"x": torch.randn(3, 4)}, name="theirs", repository="served", max_rows=4)
print(sorted(name for name in sys.modules if name.split(".")[0] == "models"))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a script and a package ``models`` of its own."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    (tmp_path / "models" / "own.py").write_text(MODELS)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def test_a_folder_with_a_package_models_of_its_own_exports_from_it(folder: Path) -> None:
    # The script's folder stands first on sys.path, before that in which export lies.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['models', 'models.own']"
    assert "batch_invariant" in done.stdout
    manifest = Manifest.load(folder / "served" / "theirs" / "1")
    assert all(claim.holds for claim in manifest.certificate.claims)


def test_there_the_command_exports_theirs_and_says_that_the_catalogue_is_elsewhere(folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "export"]
    own = [*command, "models.own:classifier", "--example", "x=FP32[2,4]", "--name", "m", "--repository", "served"]
    done = subprocess.run(own, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "served" / "m" / "1" / "manifest.json").exists()
    # As installed: an editable install finds what of our models is not in theirs, and so two packages become one.
    installed = (
        "import runpy, sys; sys.meta_path[:] = [each for each in sys.meta_path if 'ditable' not in repr(each)]; "
        "runpy.run_module('export', run_name='__main__')"
    )
    command = [sys.executable, "-c", installed]
    catalogue = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert catalogue.returncode == 2
    assert "the catalogue's models are not here" in catalogue.stdout
