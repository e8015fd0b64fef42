"""``python -m service check MODEL_REPOSITORY``: whether each artifact is whole and its certificate holds here."""

import os
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from service.certificate import broken_claims
from service.loader import Loader
from service.manifest import ArtifactError, Certificate, Claim
from service.metrics import Metrics
from service.provider import provider_of
from service.repository import Entry, ModelRepository
from service.settings import PROGRAM, read_settings

COMMAND = "check"
HEAD = ("model", "version", "claim", "holds", "checked", "measured")
HOLDS = HEAD.index("holds")
REFUSED, AS_CERTIFIED = "refused", "no, as certified"
# Of all that a claim was measured by, the number that decides it.
DECIDES = {
    "train_eval_identical": "mismatching_rows",
    "torch_onnx_parity": "max_abs",
    "runtime_parity": "max_abs",
    "float64_error": "served_max",
    "batch_invariant": "mismatching_rows",
    "thread_invariant": "mismatching_batches",
    "metric_preserved": "served",
    "full_precision": "relative",
}
COLOURS = {"yes": 32, AS_CERTIFIED: 33, "no": 31, REFUSED: 31}  # green, yellow, red
BAR_WIDTH = 30

Row = tuple[str, str, str, str, str, str]


def check(arguments: Sequence[str], out: TextIO, progress: TextIO) -> int:
    """Print what was measured; 0 when every claim that held at export holds, else 1.

    Behind the folder: the flags of the service, such as --execution-provider. Raises what ``read_settings`` and
    ``provider_of`` raise.
    """
    folder = _folder(arguments[:1])
    settings = read_settings(["--model-repository", folder, *arguments[1:]])
    loader = Loader(settings, provider_of(settings))
    repository = ModelRepository(settings.model_repository, Metrics())
    repository.scan()
    entries, rows, failures = repository.models(), [HEAD], 0
    for number, entry in enumerate(entries):
        _show(progress, number, len(entries), str(entry))
        found, holds = _checked(loader, entry)
        rows += found
        failures += not holds
    _show(progress, len(entries), len(entries), "")
    for line in _lines(rows, is_coloured=_is_terminal(out) and not os.environ.get("NO_COLOR")):
        print(line, file=out)
    print(f"\n{len(entries) - failures} of {len(entries)} hold", file=out)
    return 1 if failures else 0


def _folder(arguments: Sequence[str]) -> str:
    """The one argument there must be; without it, or with --help, the process ends as argparse ends it: 2 or 0."""
    parser = ArgumentParser(
        f"{PROGRAM} {COMMAND}",
        usage=f"{PROGRAM} {COMMAND} MODEL_REPOSITORY [flags]",
        description="Verify every artifact of a folder and measure its certificate on this machine, without serving. "
        "Exit status: 0 when every claim that held at export holds, 1 when one does not or an artifact is broken, "
        f"2 when it cannot be tried. Flags: those of the service ({PROGRAM} --help), for what it is computed on.",
    )
    parser.add_argument("folder", metavar="MODEL_REPOSITORY", help="folder of models: <name>/<version>/manifest.json")
    folder: str = parser.parse_args(arguments).folder
    return folder


def _checked(loader: Loader, entry: Entry) -> tuple[list[Row], bool]:
    """A model's lines of the table, and whether it is as it was certified."""
    try:
        measured = loader.check(entry.artifact())
    except ArtifactError as error:
        return [(entry.name, entry.version, "", REFUSED, "", str(error))], False
    exported, here = measured.manifest.certificate, measured.certificate
    return list(_rows(exported, here)), not broken_claims(exported, here)


def _rows(exported: Certificate, here: Certificate) -> Iterator[Row]:
    name, version = here.model_name, here.model_version
    broken = broken_claims(exported, here)
    for claim in here.claims:
        holds = "yes" if claim.holds else "no" if claim in broken else AS_CERTIFIED
        checked = "here" if claim.checked == "start" else claim.checked
        yield name, version, claim.claim, holds, checked, _figure(claim)
        name = version = ""  # once is enough


def _figure(claim: Claim) -> str:
    """``max_abs 3.8e-06``; of several cases each one's."""
    key = DECIDES.get(claim.claim, "")
    numbers = [f"{number:.3g}" if isinstance(number, float) else str(number) for number in _found(claim.measured, key)]
    return f"{key} {', '.join(numbers)}" if numbers else str(claim.measured)


def _found(measured: dict[str, Any], key: str) -> list[Any]:
    if key in measured:
        return [measured[key]]
    return [number for part in measured.values() if isinstance(part, dict) for number in _found(part, key)]


def _lines(rows: Sequence[Row], *, is_coloured: bool) -> Iterator[str]:
    """Columns as wide as what stands in them; the last may be as long as it is."""
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        if is_coloured and row[HOLDS] in COLOURS:
            cells[HOLDS] = f"\x1b[{COLOURS[row[HOLDS]]}m{cells[HOLDS]}\x1b[0m"
        yield "  ".join([*cells, row[-1]]).rstrip()


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _show(stream: TextIO, done: int, of: int, name: str) -> None:
    """How far it is, on a terminal alone; gone once all is done."""
    if not _is_terminal(stream):
        return
    full = BAR_WIDTH * done // max(1, of)
    stream.write(f"\r\x1b[2K[{'#' * full}{' ' * (BAR_WIDTH - full)}] {done}/{of} {name}" if done < of else "\r\x1b[2K")
    stream.flush()
