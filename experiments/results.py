"""What an experiment found, as JSON: figures, seeds, configuration, and where it ran."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch


def write_results(
    name: str, results: dict[str, Any], folder: Path, more_versions: Mapping[str, str] | None = None
) -> Path:
    """Write ``folder/name.json``, whole or not at all, with the versions and the machine beside the results."""
    folder.mkdir(parents=True, exist_ok=True)
    file, unfinished = folder / f"{name}.json", folder / f".{name}.json"
    document = {"experiment": name, **results, "versions": versions() | dict(more_versions or {}), "machine": machine()}
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(file)
    return file


def read_results(name: str, folder: Path) -> dict[str, Any]:
    """What :func:`write_results` wrote, or nothing."""
    file = folder / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def versions() -> dict[str, str]:
    """Of what a figure may depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}


def machine() -> dict[str, Any]:
    """The processor's name, and how many cores there are."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"processor": names[0] if names else platform.processor(), "cores": os.cpu_count()}
