"""One spec and its checkpoint -> ``<repository>/<name>/<version>/``, complete or not at all."""

from pathlib import Path

import torch
from onnx import ModelProto
from torch import nn

from export.catalog import ExportSpec
from export.certify import certified, certify, named_outputs
from export.checkpoint import extents, load_checkpoint, randomize, to_safetensors
from export.errors import ExportError
from export.folder import PROBE_SEED, Files, hashes, sessions, versions, write_artifact
from export.onnx_export import export_graph
from service import certificate
from service.manifest import WEIGHTS_FILE, Certificate, Dataset, Manifest, Probe


def export_artifact(spec: ExportSpec, repository: Path) -> Manifest:
    """Export a model from the checkpoint in its folder, certify it, and write its graph and manifest.

    Raises ExportError when there is no checkpoint, when it is not the model's, or when the graph's answers are not
    torch's; the folder is then as it was.
    """
    folder = repository / spec.name / spec.version
    model = spec.build().eval()
    weights = _weights(spec, model, folder / WEIGHTS_FILE)
    graph = graph_of(spec, model, weights)
    content = graph.SerializeToString(deterministic=True)
    draft = _draft(spec, model, graph, content, weights)
    runs = sessions(Files(draft, content, weights))
    manifest = certified(draft, certify(model, draft, runs, spec.held_out() if spec.held_out else None))
    write_artifact(folder, manifest, content, weights)
    return manifest


def _weights(spec: ExportSpec, model: nn.Module, checkpoint: Path) -> bytes:
    """Give the model its weights, and return them as they stand, or will stand, in ``model.safetensors``."""
    if spec.trained_by is None:
        randomize(model)
        return to_safetensors(model)
    if not checkpoint.exists():
        raise ExportError(
            f"{spec.name} has no checkpoint at {checkpoint}: train it with `python -m experiments {spec.trained_by}`"
        )
    return load_checkpoint(model, checkpoint)


def graph_of(spec: ExportSpec, model: nn.Module, weights: bytes) -> ModelProto:
    """The graph of a model of this spec, pointing into ``weights``, its safetensors. Raises ExportError."""
    example = [torch.from_numpy(certificate.zeros(tensor, spec.example_shape)) for tensor in spec.inputs]
    return export_graph(model, example, spec.inputs, spec.outputs, extents(weights))


def _draft(spec: ExportSpec, model: nn.Module, graph: ModelProto, content: bytes, weights: bytes) -> Manifest:
    """The manifest before anything was claimed, torch's answers to the probe in it."""
    held_out = spec.held_out() if spec.held_out else None
    draft = Manifest(
        name=spec.name,
        version=spec.version,
        batch_axis=0,
        max_rows=spec.max_rows,
        inputs=list(spec.inputs),
        outputs=list(spec.outputs),
        alphabet=spec.alphabet,
        task=spec.task,
        config=spec.config,
        dataset=held_out and Dataset(name=held_out.dataset, sha256=held_out.sha256, split=held_out.split),
        files=hashes(content, weights),
        versions=versions(graph),
        probe=Probe(
            seed=PROBE_SEED, shapes=[*map(list, spec.probe_shapes)], outputs="", atol=spec.atol, rtol=spec.rtol
        ),
        certificate=Certificate(model_name=spec.name, model_version=spec.version, claims=[]),
    )
    answers = [named_outputs(model, draft, inputs) for inputs in certificate.probe_inputs(draft)]
    return draft.model_copy(update={"probe": draft.probe.model_copy(update={"outputs": Probe.pack(answers)})})
