"""An artifact measured again, by torch too where its module can be had."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from export.certify import certify_example, invariance, named_outputs
from export.errors import ExportError
from export.example import of_rows
from export.factory import load_weights, module_of
from export.folder import Files, read_artifact, sessions
from export.named_model import NamedModel, reproducible
from service import certificate
from service.manifest import OF_TORCH, WEIGHTS_FILE, Claim, Probe

FEWEST_ROWS = 16
# A module alone is not enough for these.
WITH_MORE = {"full_precision": "it needs the weights as trained", "metric_preserved": "it needs the data"}


def verify(folder: Path, factory: str | None, arguments: Mapping[str, Any], console: Console) -> bool:
    """Measure every claim that can be, print it, and whether all that held at export hold.

    folder: of a version. factory: ``module:factory`` for the claims that need torch; None leaves them out. Raises
    ArtifactError when a file is missing or not as hashed, ExportError when the factory's module is not the artifact's.
    """
    files = read_artifact(folder)
    claims, missing, failed = _measured(files, folder, factory, arguments)
    here = {claim.claim: claim for claim in claims}
    manifest, broken = files.manifest, []
    table = Table(title=f"{manifest.name}, version {manifest.version}: files as hashed", title_justify="left")
    for column in ("claim", "at export", "here", "measured here, or why not"):
        table.add_column(column, overflow="fold")
    exported = {claim.claim: claim for claim in manifest.certificate.claims}
    for name in dict.fromkeys([*exported, *here]):
        then, now = exported.get(name), here.get(name)
        if now is None and name not in failed:
            table.add_row(
                name,
                _words(then),
                "[yellow]not measured[/yellow]",
                missing.get(name, "by torch there is torch_onnx_parity"),
            )
            continue
        if now is None:
            broken += [name] if then is not None and then.holds else []
            table.add_row(name, _words(then), "[red]cannot be measured[/red]", escape(failed[name]))
            continue
        if then is not None and then.holds and not now.holds:
            broken.append(name)
        figures = ", ".join(
            f"{key} {value}" for key, value in now.measured.items() if not isinstance(value, dict | list)
        )
        table.add_row(name, _words(then), _words(now), escape(figures))
    console.print(table)
    return not broken


def _words(claim: Claim | None) -> str:
    if claim is None:
        return "not measured"
    return "[green]holds[/green]" if claim.holds else "[red]does not hold[/red]"


def _measured(
    files: Files, folder: Path, factory: str | None, arguments: Mapping[str, Any]
) -> tuple[list[Claim], dict[str, str], dict[str, str]]:
    """The claims; why some were not measured that could be, and which could not."""
    manifest, runs = files.manifest, sessions(files)
    rows = certificate.probe_inputs(manifest)[0]
    if manifest.batch_axis == 0:
        rows = of_rows(rows, max(FEWEST_ROWS, len(next(iter(rows.values())))))
    if factory is None:
        recorded = manifest.config.get("factory")
        reason = "it needs the module: --factory module:factory" + (
            f", or --recorded for {recorded}, which this runs" if recorded else ""
        )
        parity = certificate.torch_onnx_parity(runs[1], manifest, checked="export")
        return [parity, *invariance(manifest, runs, rows)], dict.fromkeys(sorted(OF_TORCH), reason) | WITH_MORE, {}
    module = module_of(factory, arguments)
    load_weights(module, folder / WEIGHTS_FILE)
    with reproducible():
        model = NamedModel(module, [tensor.name for tensor in manifest.inputs]).eval()
        try:
            answers = [named_outputs(model, manifest, inputs) for inputs in certificate.probe_inputs(manifest)]
        except Exception as error:  # whatever a module of anybody's raises
            raise ExportError(f"{factory} does not take what {manifest.name} takes: {error}") from error
        # Torch's answers of today, not those that were stored.
        probe = manifest.probe.model_copy(update={"by": "torch", "outputs": Probe.pack(answers)})
        claims, failed = certify_example(model, manifest.model_copy(update={"probe": probe}), runs, rows, None)
    return claims, WITH_MORE, failed
