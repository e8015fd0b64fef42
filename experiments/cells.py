"""An experiment's grid: independent cells, one on each core, each written down as soon as it is finished."""

import itertools
from collections.abc import Callable
from typing import Any

import joblib
import torch

from experiments.folders import Folders
from experiments.progress import progress_bar
from experiments.results import machine, read_results, versions, write_results

Cell = dict[str, Any]  # what sets it apart from the others: a placement, a learning rate, a seed
Row = dict[str, Any]  # a cell, and beside it what was found
Measure = Callable[[Cell, dict[str, Any]], dict[str, Any]]


def cells_of(axes: dict[str, tuple[Any, ...]]) -> list[Cell]:
    """Every combination, the first axis changing slowest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def run_cells(
    experiment: str,
    config: dict[str, Any],
    cells: list[Cell],
    measure: Measure,
    folders: Folders,
    dataset_sha256: str | None = None,
) -> list[Row]:
    """Each cell with what ``measure(cell, config)`` found, in the order of ``cells``.

    A cell that stands in the results, of the same config, data and versions, is not measured again: an interrupted run
    goes on, on whichever machine (``machines`` in the results names them all), and a finished one is only drawn anew.
    ``measure`` runs in another process, on one thread; of what it returns, ``loss`` is shown while the others run; it
    is None where there is none.
    """
    about = {"config": config, "dataset_sha256": dataset_sha256}
    done = read_results(experiment, folders.results)
    found, machines = (_by_key(done["cells"]), done["machines"]) if _alike(done, about) else ({}, [])
    machines = [*machines, here] if (here := machine()) not in machines else machines
    missing = [cell for cell in cells if _key(cell) not in found]
    tasks = (joblib.delayed(_measure)(measure, cell, config) for cell in missing)
    with progress_bar() as progress:
        task = progress.add_task(experiment, total=len(cells), completed=len(cells) - len(missing), last="")
        for row in joblib.Parallel(n_jobs=joblib.cpu_count(), return_as="generator_unordered")(tasks):
            found[_key(row["cell"])] = row
            rows = [found[_key(cell)] for cell in cells if _key(cell) in found]
            write_results(experiment, {**about, "machines": machines, "cells": rows}, folders.results)
            loss = "no loss" if row["loss"] is None else f"loss {row['loss']:.4f}"
            progress.update(task, advance=1, last=" ".join(map(str, row["cell"].values())) + f": {loss}")
    return [found[_key(cell)] for cell in cells]


def grouped(rows: list[Row], axis: str) -> list[tuple[Any, list[Row]]]:
    """The rows by their value of an axis, in the order in which the values first come."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["cell"][axis], []).append(row)
    return list(groups.items())


def _measure(measure: Measure, cell: Cell, config: dict[str, Any]) -> Row:
    torch.set_num_threads(1)  # one process a core: more threads would only wait for each other
    return {"cell": cell, **measure(cell, config)}


def _alike(done: dict[str, Any], about: dict[str, Any]) -> bool:
    return {**about, "versions": versions()}.items() <= done.items()


def _by_key(rows: list[Row]) -> dict[tuple[Any, ...], Row]:
    return {_key(row["cell"]): row for row in rows}


def _key(cell: Cell) -> tuple[Any, ...]:
    return tuple(sorted(cell.items()))
