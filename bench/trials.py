"""``python -m bench.trials``: run every trial of tests/soak at full length, and write down what was measured.

Interrupted, it goes on behind the last trial that was finished.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.report import Line, write_between_marks
from experiments.results import read_results, write_results

FOUND = Path("build/soak")
RESULTS, NAME = Path("bench/results"), "soak"
PAGE = Path("docs/soak.md")
VERSIONS = (
    "onnxruntime",
    "uvicorn",
    "uvloop",
    "httptools",
    "orjson",
    "pysimdjson",
    "fastapi",
    "schemathesis",
    "atheris",
)
TESTS_FAILED = 1  # pytest's exit status; any other but 0: it did not run to its end


def main() -> int:
    """0 when every trial reached its goal. Those that did not are in the table all the same."""
    command = [sys.executable, "-m", "pytest", "tests/soak", "--timeout=0", "--no-header", "-rsfE", *sys.argv[1:]]
    status = subprocess.run(command, env=os.environ | {"SOAK": "full"}).returncode  # noqa: S603
    if status not in (0, TESTS_FAILED):
        return status
    found = {file.stem: json.loads(file.read_text()) for file in sorted(FOUND.glob("*.json"))}
    about = {"date": f"{datetime.now(UTC):%Y-%m-%d}"}
    write_results(NAME, {**about, "trials": found}, RESULTS, {name: version(name) for name in VERSIONS})
    results = read_results(NAME, RESULTS)
    write_between_marks(PAGE, markdown(results))
    if status == 0:
        shutil.rmtree(FOUND)  # the next run begins anew; after a failure only those that are removed by hand do
    return status


def lines(results: dict[str, Any]) -> list[Line]:
    """Every figure of every trial."""
    return [Line(**each) for trial in results["trials"].values() for each in trial]


def markdown(results: dict[str, Any]) -> str:
    """The table, with date and machine."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {found}" for name, found in results["versions"].items())
    about = f"{results['date']}, {machine['processor']}, {machine['cores']} cores, which the clients share. {versions}."
    return "\n".join([about, "", *table(lines(results))])


def table(found: Sequence[Line]) -> list[str]:
    """In markdown."""
    rows = ["| measured | figure | goal | how |", "|---|---|---|---|"]
    for each in found:
        goal = f"{'>=' if each.at_least else '<='} {each.goal:g}{each.unit}"
        figure = "not measured" if each.figure is None else f"{each.figure:.4g}{each.unit}"
        mark = " (missed)" if each.reached is False else ""
        rows.append(f"| {each.what} | {figure}{mark} | {goal} | {each.spread} |")
    return rows


if __name__ == "__main__":
    sys.exit(main())
