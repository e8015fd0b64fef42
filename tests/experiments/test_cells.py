"""A grid of cells: an interrupted run goes on, a finished one is not run again."""

from pathlib import Path
from typing import Any

import pytest

from experiments.cells import grouped, run_cells
from experiments.folders import Folders
from experiments.results import machine, read_results, write_results

CELLS = [{"size": size} for size in (1, 2, 3)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "measured"


def measure(cell: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Leaves a trace of every cell measured, in whatever process."""
    with Path(config["log"]).open("a") as file:
        file.write(f"{cell['size']}\n")
    if cell["size"] == config.get("fails_at"):
        raise ZeroDivisionError(f"size {cell['size']}")
    return {"loss": cell["size"] * config["factor"]}


def measured(log: Path) -> list[int]:
    return sorted(int(line) for line in log.read_text().split())


def test_the_rows_come_in_the_order_of_the_cells_and_stand_in_the_results(folders: Folders, log: Path) -> None:
    config = {"log": str(log), "factor": 2.0}
    rows = run_cells("grid", config, CELLS, measure, folders)
    assert rows == [{"cell": {"size": size}, "loss": 2.0 * size} for size in (1, 2, 3)]
    results = read_results("grid", folders.results)
    assert (results["cells"], results["config"]) == (rows, config)
    assert set(results["versions"]) == {"python", "torch", "numpy"}


def test_a_run_goes_on_after_the_cells_that_are_finished(folders: Folders, log: Path) -> None:
    config = {"log": str(log), "factor": 2.0}
    run_cells("grid", config, CELLS[:2], measure, folders)
    assert len(run_cells("grid", config, CELLS, measure, folders)) == 3
    assert measured(log) == [1, 2, 3]


def test_a_run_that_goes_on_elsewhere_names_both_machines(folders: Folders, log: Path) -> None:
    config = {"log": str(log), "factor": 2.0}
    run_cells("grid", config, CELLS[:2], measure, folders)
    here = read_results("grid", folders.results)["machines"]
    assert here == [machine()]
    elsewhere = {"processor": "another", "cores": 64}
    write_results("grid", read_results("grid", folders.results) | {"machines": [elsewhere]}, folders.results)
    run_cells("grid", config, CELLS, measure, folders)
    assert read_results("grid", folders.results)["machines"] == [elsewhere, machine()]


def test_other_data_measures_everything_again_and_says_which_they_are(folders: Folders, log: Path) -> None:
    config = {"log": str(log), "factor": 2.0}
    for sha256 in ("a" * 64, "a" * 64, "b" * 64):
        run_cells("grid", config, CELLS, measure, folders, sha256)
        assert read_results("grid", folders.results)["dataset_sha256"] == sha256
    assert measured(log) == [1, 1, 2, 2, 3, 3]


def test_another_config_measures_everything_again(folders: Folders, log: Path) -> None:
    run_cells("grid", {"log": str(log), "factor": 2.0}, CELLS, measure, folders)
    rows = run_cells("grid", {"log": str(log), "factor": 3.0}, CELLS, measure, folders)
    assert [row["loss"] for row in rows] == [3.0, 6.0, 9.0]
    assert measured(log) == [1, 1, 2, 2, 3, 3]


def test_a_cell_that_fails_ends_the_run_and_loses_no_finished_one(folders: Folders, log: Path) -> None:
    config = {"log": str(log), "factor": 2.0, "fails_at": 3}
    run_cells("grid", config, CELLS[:2], measure, folders)
    with pytest.raises(ZeroDivisionError, match="size 3"):
        run_cells("grid", config, CELLS, measure, folders)
    assert [row["loss"] for row in read_results("grid", folders.results)["cells"]] == [2.0, 4.0]


def test_what_is_forgotten_is_measured_again(folders: Folders, log: Path) -> None:
    config = {"log": str(log), "factor": 2.0}
    run_cells("grid", config, CELLS, measure, folders)
    folders.forget("grid")
    run_cells("grid", config, CELLS, measure, folders)
    assert measured(log) == [1, 1, 2, 2, 3, 3]


def test_rows_are_grouped_in_the_order_in_which_the_values_come() -> None:
    rows = [{"cell": {"size": size, "seed": seed}} for seed in (0, 1) for size in (128, 4)]
    assert [(size, len(found)) for size, found in grouped(rows, "size")] == [(128, 2), (4, 2)]
