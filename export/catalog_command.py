"""``python -m export [MODEL ...]``: the catalogue's checkpoints -> artifacts, each with its certificate."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from export.artifact import export_artifact
from export.catalog import CATALOG, REFERENCE_MODELS
from export.errors import ExportError
from export.op_certificates import op_certificates
from export.op_graphs import op_graphs
from service.manifest import CERTIFICATES_FILE, ArtifactError, Certificate

ARTIFACTS = Path("artifacts")
OPERATIONS = "operations"
OPERATION_GRAPHS = Path("service/graphs")


def export_catalog(arguments: Sequence[str], console: Console) -> int:
    """Export what is named, or everything that is kept; 1 when something cannot be exported as promised."""
    options = _options(arguments)
    status = 0
    for name in options.names:
        try:
            with console.status(f"exporting {name}"):
                certificates = (
                    export_operations(OPERATION_GRAPHS)
                    if name == OPERATIONS
                    else [export_artifact(CATALOG[name], options.repository).certificate]
                )
        except (ExportError, ArtifactError) as error:
            console.print(f"[red]{name} was not exported:[/red] {error}", highlight=False, soft_wrap=True)
            status = 1
        else:
            for certificate in certificates:
                console.print(certificate_table(certificate))
    return status


def export_operations(folder: Path) -> list[Certificate]:
    """Write the graphs of the normalisation operations and, beside them, what was measured of them.

    Raises ExportError when a claim does not hold, and leaves the folder as it was.
    """
    graphs = op_graphs()
    certificates = op_certificates(graphs)
    for certificate in certificates.root:
        for claim in certificate.claims:
            if not claim.holds:
                raise ExportError(f"{certificate.model_name}: {claim.claim} does not hold: {claim.measured}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, graph in graphs.items():
        (folder / f"{name}.onnx").write_bytes(graph)
    (folder / CERTIFICATES_FILE).write_text(certificates.model_dump_json(indent=1) + "\n")
    return certificates.root


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m export",
        description="Export models of the catalogue from their checkpoints.",
        epilog="For a model of your own: python -m export module:factory --help, python -m export check, diff or adopt "
        "--help.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="MODEL",
        help=f"one of {', '.join(CATALOG)}, or {OPERATIONS} for the graphs of the normalisation operations; "
        f"default: {' '.join(REFERENCE_MODELS)} and, unless --repository is given, {OPERATIONS}",
    )
    parser.add_argument(
        "--repository",
        type=Path,
        default=ARTIFACTS,
        help="folder of models: each checkpoint is read from it, its graph and manifest go beside it (%(default)s)",
    )
    options = parser.parse_args(arguments)
    is_elsewhere = options.repository.resolve() != ARTIFACTS.resolve()
    for name in options.names:
        if name == OPERATIONS:
            continue
        if name not in CATALOG:
            parser.error(f"there is no model {name!r}; the models are {', '.join(CATALOG)}")
        if CATALOG[name].trained_by is None and not is_elsewhere:
            parser.error(f"{name} has random weights and is not kept: name another folder with --repository")
    options.names = options.names or [*REFERENCE_MODELS, *([] if is_elsewhere else [OPERATIONS])]
    return options


def certificate_table(certificate: Certificate) -> Table:
    """The certificate, a claim a line."""
    table = Table(title=f"{certificate.model_name}, version {certificate.model_version}", title_justify="left")
    for column in ("claim", "holds", "measured"):
        table.add_column(column, overflow="fold")
    for claim in certificate.claims:
        holds = "[green]yes[/green]" if claim.holds else "[red]no[/red]"
        table.add_row(
            claim.claim, holds, "\n".join(f"{key}: {_figure(value)}" for key, value in claim.measured.items())
        )
    return table


def _figure(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_figure(inner)}" for key, inner in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
