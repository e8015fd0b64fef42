"""What an experiment found, as JSON: figures, seeds, configuration, and where it ran."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy
import torch

RESULTS = Path("experiments/results")


def write_results(name: str, results: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write ``folder/name.json`` with the versions and the machine beside the results."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    document = {"experiment": name, **results, "versions": _versions(), "machine": _machine()}
    file.write_text(json.dumps(document, indent=1) + "\n")
    return file


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"processor": names[0] if names else platform.processor(), "cores": os.cpu_count()}
