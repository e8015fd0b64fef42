"""Two artifacts side by side: what they answer to the same inputs, how fast, and what of their certificates differs."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table

from export.errors import ExportError
from export.example import of_rows
from export.folder import Files, read_artifact, versions_of
from service import certificate
from service.certificate import Run
from service.manifest import Manifest

ROUNDS = 9
ROUND_S = 0.03  # of each, in turn: what else the machine does meets both


@dataclass(frozen=True)
class Comparison:
    """What was found. differences: by output the largest, and the largest number. seconds: of a run, by rows."""

    differences: dict[str, tuple[float, float]]
    seconds: dict[int, tuple[float, float]]
    lost: list[str]  # claims that hold of the first and not of the second


def compare(one: Path, other: Path, console: Console) -> Comparison:
    """Compare two versions' folders and print it. Raises ExportError where they do not take the same inputs."""
    ours, theirs = (read_artifact(versions_of(folder)[-1]) for folder in (one, other))
    a, b = ours.manifest, theirs.manifest
    for what in ("inputs", "outputs"):
        first, second = (
            [(each.name, each.datatype, len(each.shape)) for each in getattr(manifest, what)] for manifest in (a, b)
        )
        if first != second:
            raise ExportError(f"they cannot be compared: the {what} of {one} are {first}, those of {other} {second}")
    if a.batch_axis != b.batch_axis:
        raise ExportError("they cannot be compared: one has a batch axis, the other has none")
    runs = _run(ours), _run(theirs)
    found = Comparison(
        _differences(a, b, runs), _seconds(a, b, runs), [name for name in _holding(a) if name not in _holding(b)]
    )
    _print(found, (f"{a.name}/{a.version}", f"{b.name}/{b.version}"), (a, b), console)
    return found


def _run(files: Files) -> Run:
    return certificate.runner(certificate.open_session(files.graph, files.weights, 1), files.manifest)


def _holding(manifest: Manifest) -> list[str]:
    return [claim.claim for claim in manifest.certificate.claims if claim.holds]


def _differences(a: Manifest, b: Manifest, runs: tuple[Run, Run]) -> dict[str, tuple[float, float]]:
    """On the probes of both: each may record what the other's example has not."""
    largest: dict[str, tuple[float, float]] = {}
    for inputs in [*certificate.probe_inputs(a), *certificate.probe_inputs(b)]:
        try:
            ours, theirs = (run(inputs) for run in runs)
        except Exception as error:  # onnxruntime has no common base class for its errors
            raise ExportError(f"they cannot be compared: one does not take the other's example ({error})") from error
        for name in ours:
            if ours[name].shape != theirs[name].shape:
                raise ExportError(f"they cannot be compared: {name} {ours[name].shape} against {theirs[name].shape}")
            off, of = largest.get(name, (0.0, 0.0))
            finite = [array[np.isfinite(array)].astype("f8") for array in (ours[name], theirs[name])]
            size = max(float(np.max(np.abs(array), initial=0)) for array in finite)
            if not np.array_equal(np.isfinite(ours[name]), np.isfinite(theirs[name])):
                raise ExportError(f"they cannot be compared: {name} of one is not finite where the other's is")
            largest[name] = (max(off, certificate.max_difference(ours[name], theirs[name])["max_abs"]), max(of, size))
    return largest


def _seconds(a: Manifest, b: Manifest, runs: tuple[Run, Run]) -> dict[int, tuple[float, float]]:
    """Medians of rounds that take turns, of one row and of a full batch."""
    inputs = certificate.probe_inputs(a)[0]
    sizes = (1, min(a.max_rows, b.max_rows)) if a.batch_axis == 0 else (0,)
    found = {}
    for size in sizes:
        batch = of_rows(inputs, size) if size else inputs
        rounds: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for run, taken in zip(runs, rounds, strict=True):
                started, count = perf_counter(), 0
                while not count or perf_counter() - started < ROUND_S:
                    run(batch)
                    count += 1
                taken.append((perf_counter() - started) / count)
        found[size] = (statistics.median(rounds[0]), statistics.median(rounds[1]))
    return found


def _print(found: Comparison, names: tuple[str, str], manifests: tuple[Manifest, Manifest], console: Console) -> None:
    table = Table(title=f"{names[0]} and {names[1]}", title_justify="left")
    for column in ("", *names, "difference"):
        table.add_column(column, overflow="fold")
    for name, (off, of) in found.differences.items():
        table.add_row(f"{name}, same inputs", "", "", f"up to {off:.3g} of {of:.3g}")
    for size, (ours, theirs) in found.seconds.items():
        what = f"{size} row{'s' * (size > 1)}" if size else "a run"
        table.add_row(f"{what}, 1 thread", _ms(ours), _ms(theirs), f"x {theirs / ours:.2f}")
    claims = [{claim.claim: claim.holds for claim in each.certificate.claims} for each in manifests]
    for name in dict.fromkeys([*claims[0], *claims[1]]):
        words = [{True: "holds", False: "does not hold", None: "not measured"}[each.get(name)] for each in claims]
        table.add_row(name, *words, "[red]lost[/red]" if name in found.lost else "")
    console.print(table)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
