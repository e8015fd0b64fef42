"""Any module and example inputs -> ``<repository>/<name>/<version>/``, with a certificate measured on those inputs."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor, nn

from export.axes import error_of, tensors_of
from export.causes import causes, unsteady, with_causes
from export.certify import certified, certify_example, outputs_by_name
from export.described_tensors import inputs_of, outputs_of, sizes_in_words
from export.errors import ExportError, one_line
from export.example import arrays_of, rows_to_measure
from export.folder import Files, hashes, in_words, place_of, sessions, versions, write_artifact
from export.held_out import Array, Arrays, HeldOut
from export.limits import Bounds, bounds_of, check_mixed, check_values, extremes, limits_of, rows_served
from export.named_model import NamedModel, output_names, reproducible
from export.notes import notes, notes_of_bounds
from export.own_graph import own_graph, state_of
from export.precision import PRECISIONS, Precision, full_precision, reduce_weights
from export.recorded import recorded_probe
from export.report import report
from service.manifest import Certificate, Dataset, Manifest

TOLERANCE = 1e-4  # of parity, to torch's number and to the root mean square of them all
MIXED_ROWS = 32


def export_model(
    model: nn.Module,
    example_inputs: Mapping[str, Tensor | Array],
    name: str,
    repository: str | Path = "artifacts",
    *,
    version: str | int = 1,
    batch_axis: Literal[0] | None = 0,
    outputs: Sequence[str] | None = None,
    max_rows: int | None = None,
    max_shape: Mapping[str, Sequence[int]] | None = None,
    bounds: Bounds | None = None,
    samples: int = MIXED_ROWS,
    data: Mapping[str, Tensor | Array] | str | Path | None = None,
    held_out: HeldOut | None = None,
    tolerance: float = TOLERANCE,
    precision: Precision | None = None,
    replace: bool = False,
    task: str = "",
    config: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Manifest:
    """Export ``model`` as it answers in ``eval()`` mode, certify it, write the artifact and print what was found.

    example_inputs: a tensor for each parameter of ``forward`` by its name, or, where the names are others, in its
    order. With batch_axis 0 each has rows along its first axis; with None requests are never merged. Which of the other
    sizes vary is found by exporting and by trying; the largest tried, or ``max_shape`` of an input, is the largest
    served. Integers are served between the smallest and the largest of the example and ``data``, or within ``bounds``.
    max_rows: in a batch; None: 256, or so few, from 8, that a run at the example's sizes takes half a second.

    Claims are measured on the example, on ``data`` (rows by input name, or a .npz or .safetensors file of them) and on
    ``samples`` rows mixed of both. held_out: for ``metric_preserved``. tolerance: of ``torch_onnx_parity``, relative.
    outputs: their names, in the order of what the module returns. console: where the table goes, not if it is quiet.
    precision: of the weights as they are stored, where it is not theirs; ``full_precision`` then says what it costs.
    replace: write over a version that is there.

    The module is copied and left as it is. Raises ExportError, which says why and what to change; the folder is then as
    it was.
    """
    folder = place_of(repository, name, str(version), replace=replace)
    if precision not in (None, *PRECISIONS):
        raise ExportError(f"precision is {precision!r}, it must be {' or '.join(PRECISIONS)}, or None: as they are")
    arrays = arrays_of(example_inputs)
    rows = rows_to_measure(arrays, data, samples, batch_axis)
    given = bounds or {}
    bounds, limits = bounds_of(given, rows), limits_of(max_shape or {}, arrays, batch_axis, max_rows)
    config = json_of(config or {})
    with reproducible(), in_words(name):
        served = _copied(model, list(arrays))
        # Before any run: one may change buffers, and what was trained is what is served.
        state = state_of(served.module)

        def error(inputs: Arrays) -> str:
            return error_of(served, inputs)

        if reason := error(arrays):
            raise ExportError(f"the module cannot be run on the example inputs: {reason}")
        if reason := unsteady(served, arrays):
            raise ExportError(f"the module answers equal inputs differently: {reason}")
        names = output_names(served, tensors_of(arrays, served), outputs)
        check_values(error, arrays, bounds)
        check_mixed(error, rows, samples if batch_axis == 0 else 0)
        trained, stored = served, dict[str, Tensor]()
        if precision is not None:
            trained = copy.deepcopy(served)
            stored = reduce_weights(served.module, precision)
        own = own_graph(
            served, state, stored, arrays, [*extremes(arrays, bounds).values()], batch_axis, names, limits, tolerance
        )
        varying, graph, weights = own.axes.varying, own.graph, own.weights
        max_rows = rows_served(max_rows, own.run, rows, batch_axis)

        def answer(inputs: Arrays) -> Arrays:
            return outputs_by_name(served, names, inputs)

        content = graph.SerializeToString(deterministic=True)
        draft = Manifest(
            name=name,
            version=str(version),
            batch_axis=batch_axis,
            max_rows=max_rows,
            inputs=inputs_of(rows, varying, batch_axis, max_rows, bounds),
            outputs=outputs_of(graph, batch_axis),
            task=task or f"that of {type(model).__qualname__}",
            config={**config, "sizes": sizes_in_words(arrays, own.axes, batch_axis, max_rows)},
            dataset=held_out and Dataset(name=held_out.dataset, sha256=held_out.sha256, split=held_out.split),
            files=hashes(content, weights),
            versions=versions(graph),
            probe=recorded_probe(answer, rows, varying, batch_axis, tolerance),
            certificate=Certificate(model_name=name, model_version=str(version), claims=[]),
        )
        runs = sessions(Files(draft, content, weights))
        claims, missing = certify_example(served, draft, runs, rows, held_out, trained)
        if precision is not None:
            claims.append(full_precision(trained, served, draft, rows, precision, tolerance))
        found = causes(served, draft, graph, weights, claims, rows)
        noted = notes(served, graph, arrays, batch_axis, varying) + notes_of_bounds(bounds, given)
    manifest = certified(draft, with_causes(claims, found))
    more = {"not_measured": missing, "notes": noted}
    manifest = manifest.model_copy(update={"config": manifest.config | more})
    write_artifact(folder, manifest, content, weights)
    report(manifest, console or Console())
    return manifest


def json_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of the model. Raises ExportError where it is no JSON, before anything is measured."""
    try:
        found: dict[str, Any] = json.loads(json.dumps(config))
    except (TypeError, ValueError) as error:
        raise ExportError(f"config cannot be written as JSON: {one_line(error)}") from error
    return found


def _copied(model: nn.Module, names: list[str]) -> NamedModel:
    if not isinstance(model, nn.Module):
        raise ExportError(f"the model is {model!r:.80}, it must be a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise ExportError("the model is TorchScript: export the module that it was made of")
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    try:
        return NamedModel(copy.deepcopy(model).cpu(), names).eval()
    except ExportError:
        raise
    except Exception as error:  # whatever a module of anybody's raises
        raise ExportError(f"the module cannot be copied: {one_line(error)}") from error
