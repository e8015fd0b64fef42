"""``python -m export``: checkpoints -> artifacts, each with its certificate."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from export.artifact import export_artifact
from export.catalog import CATALOG, REFERENCE_MODELS
from export.errors import ExportError
from service.manifest import ArtifactError, Manifest

ARTIFACTS = Path("artifacts")


def main(arguments: Sequence[str], console: Console) -> int:
    """Export the models named, or all reference models; 1 when one of them cannot be exported as promised."""
    options = _options(arguments)
    status = 0
    for name in options.models or REFERENCE_MODELS:
        try:
            with console.status(f"exporting {name}"):
                manifest = export_artifact(CATALOG[name], options.repository)
        except (ExportError, ArtifactError) as error:
            console.print(f"[red]{name} was not exported:[/red] {error}", highlight=False, soft_wrap=True)
            status = 1
        else:
            console.print(certificate_table(manifest))
    return status


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m export", description="Export models from their checkpoints.")
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help=f"one of {', '.join(CATALOG)}; default: {' '.join(REFERENCE_MODELS)}",
    )
    parser.add_argument(
        "--repository",
        type=Path,
        default=ARTIFACTS,
        help="folder of models: each checkpoint is read from it, its graph and manifest go beside it (%(default)s)",
    )
    options = parser.parse_args(arguments)
    for name in options.models:
        if name not in CATALOG:
            parser.error(f"there is no model {name!r}; the models are {', '.join(CATALOG)}")
        if CATALOG[name].trained_by is None and options.repository.resolve() == ARTIFACTS.resolve():
            parser.error(f"{name} has random weights and is not kept: name another folder with --repository")
    return options


def certificate_table(manifest: Manifest) -> Table:
    """The certificate, a claim a line."""
    table = Table(title=f"{manifest.name}, version {manifest.version}", title_justify="left")
    for column in ("claim", "holds", "measured"):
        table.add_column(column, overflow="fold")
    for claim in manifest.certificate.claims:
        holds = "[green]yes[/green]" if claim.holds else "[red]no[/red]"
        table.add_row(
            claim.claim, holds, "\n".join(f"{key}: {_figure(value)}" for key, value in claim.measured.items())
        )
    return table


def _figure(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_figure(inner)}" for key, inner in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Console()))
