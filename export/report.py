"""A certificate to be read: each claim, whether it holds, the figure that decides it, and the likely cause."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.manifest import Certificate, Claim, Manifest

DECIDES = {
    "train_eval_identical": ("mismatching_rows", "rows_compared"),
    "torch_onnx_parity": ("max_abs",),
    "runtime_parity": ("max_abs",),
    "float64_error": ("served_median", "torch_median"),
    "batch_invariant": ("mismatching_rows", "rows_compared"),
    "thread_invariant": ("mismatching_batches", "batches_compared"),
    "full_precision": ("max_abs", "relative"),
}


def report(manifest: Manifest, console: Console) -> None:
    """Print what is served and what was found of it."""
    config = manifest.config
    sizes = Table(title=f"{manifest.name}, version {manifest.version}", title_justify="left")
    for column in ("tensor", "datatype", "shape", "sizes"):
        sizes.add_column(column, overflow="fold")
    for tensor in manifest.inputs:
        said = [words for key, words in config.get("sizes", {}).items() if key.startswith(f"{tensor.name}[")]
        if tensor.minimum is not None:
            said.append(f"values {tensor.minimum:g} to {tensor.maximum:g}")
        sizes.add_row(tensor.name, tensor.datatype, escape(str(tensor.shape)), escape("\n".join(said)))
    for output in manifest.outputs:
        sizes.add_row(f"-> {output.name}", output.datatype, escape(str(output.shape)), "")
    console.print(sizes)
    console.print(claims_table(manifest.certificate, config.get("not_measured", {})))
    for note in config.get("notes", []):
        console.print(f"note: {note}", highlight=False, markup=False)


def claims_table(certificate: Certificate, missing: Mapping[str, str]) -> Table:
    """A line for each claim; those that could not be measured say why."""
    table = Table()
    for column in ("claim", "holds", "measured", "likely cause"):
        table.add_column(column, overflow="fold")
    for claim in certificate.claims:
        holds = "[green]yes[/green]" if claim.holds else "[red]no[/red]"
        table.add_row(
            claim.claim, holds, _figures(claim), "" if claim.holds else escape(str(claim.measured.get("cause", "")))
        )
    for name, reason in missing.items():
        table.add_row(name, "[yellow]not measured[/yellow]", "", escape(reason))
    return table


def _figures(claim: Claim) -> str:
    measured: dict[str, Any] = claim.measured
    for part in measured.values():
        if isinstance(part, dict) and claim.claim not in ("batch_invariant",):
            measured = measured | part
    wanted = DECIDES.get(claim.claim, ())
    shown = [f"{key} {_figure(measured[key])}" for key in wanted if key in measured]
    return ", ".join(shown) or ", ".join(f"{key} {value}" for key, value in claim.measured.items())


def _figure(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
