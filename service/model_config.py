"""GET .../config: how a model is run, in the terms Triton's clients read and with the reasons people ask for."""

from typing import Any

from service.manifest import Manifest, Tensor
from service.settings import Settings

ON = "requests of equal sizes past axis 0 that wait at the same time share a run"
NO_AXIS = "the model has no batch axis: every request is a run of its own"
NOT_INVARIANT = "rows of the model change each other (batch_invariant does not hold): every request is a run of its own"


def most_merged(manifest: Manifest, settings: Settings) -> int:
    """Rows that requests may have together in a run; where none are merged 1: a request, whatever rows it has."""
    return min(settings.max_batch_size, manifest.max_rows) if manifest.merges else 1


def model_config(manifest: Manifest, settings: Settings, instances: int) -> dict[str, Any]:
    """``max_batch_size`` and dims without the batch axis, as Triton has them; ``batching`` says on or off and why."""
    batches = manifest.batch_axis is not None
    return {
        "name": manifest.name,
        "version": manifest.version,
        "platform": manifest.platform,
        "backend": "onnxruntime",
        "execution_provider": settings.execution_provider,
        "precision": settings.precision,
        "max_batch_size": manifest.max_rows if batches else 0,
        "input": [_tensor(tensor, batches) for tensor in manifest.inputs],
        "output": [_tensor(tensor, batches) for tensor in manifest.outputs],
        "instance_group": [_instance_group(settings, instances)],
        "batching": {
            "enabled": manifest.merges,
            "reason": ON if manifest.merges else NOT_INVARIANT if batches else NO_AXIS,
            "max_batch_size": most_merged(manifest, settings),
            "max_rows": manifest.max_rows,
            "max_queue_delay_ms": settings.max_queue_delay_ms,
            "max_queue_size": settings.max_queue_size,
            "max_queue_bytes": settings.max_queue_bytes,
        },
        "task": manifest.task,
        "parameters": manifest.config,
        "metric": manifest.metric and manifest.metric.model_dump(),
        "alphabet": manifest.alphabet,
    }


def _instance_group(settings: Settings, instances: int) -> dict[str, Any]:
    where = {"kind": "KIND_GPU", "gpus": [0]} if settings.execution_provider == "cuda" else {"kind": "KIND_CPU"}
    return where | {"count": instances, "intra_op_threads": settings.intra_op_threads}


def _tensor(tensor: Tensor, batches: bool) -> dict[str, Any]:
    described = {
        "name": tensor.name,
        "data_type": f"TYPE_{tensor.datatype}",
        "dims": tensor.shape[1:] if batches else tensor.shape,
    }
    return described | tensor.model_dump(exclude={"name", "datatype", "shape"}, exclude_none=True)
