"""The protocol's statistics extension, read from the metrics, so that the two can never disagree."""

from typing import Any

from service.metrics import Metrics

Labels = frozenset[tuple[str, str]]


def model_statistics(metrics: Metrics, models: list[tuple[str, str]]) -> dict[str, Any]:
    """GET /v2/models/stats for (name, version) pairs; durations are {"count", "ns"}, inference_count counts rows."""
    values: dict[tuple[str, Labels], float] = {}
    batch_sizes: dict[tuple[str, str], list[int]] = {model: [] for model in models}
    for family in metrics.registry.collect():
        for sample in family.samples:
            values[sample.name, frozenset(sample.labels.items())] = sample.value
            if sample.name == "normserve_batch_size_seconds_count":
                model = (sample.labels["model"], sample.labels["version"])
                batch_sizes.setdefault(model, []).append(int(sample.labels["rows"]))
    return {"model_stats": [_one_model(values, *model, sorted(batch_sizes[model])) for model in models]}


def _one_model(
    values: dict[tuple[str, Labels], float], name: str, version: str, batch_sizes: list[int]
) -> dict[str, Any]:
    def value(metric: str, **labels: str) -> float:
        return values.get(
            (f"normserve_{metric}", frozenset({"model": name, "version": version, **labels}.items())), 0.0
        )

    def duration(metric: str, **labels: str) -> dict[str, int]:
        return {
            "count": int(value(f"{metric}_count", **labels)),
            "ns": round(value(f"{metric}_sum", **labels) * 1e9),
        }

    ends = [duration("request_seconds", outcome=end) for end in ("invalid", "rejected", "failed", "cancelled")]
    return {
        "name": name,
        "version": version,
        "last_inference": round(value("last_inference_timestamp_seconds") * 1000),
        "inference_count": int(value("rows_total")),
        "execution_count": int(value("batches_total")),
        "inference_stats": {
            "success": duration("request_seconds", outcome="success"),
            "fail": {unit: sum(end[unit] for end in ends) for unit in ("count", "ns")},
            "queue": duration("queue_seconds"),
            "compute_input": duration("codec_seconds", stage="decode"),
            "compute_infer": duration("compute_seconds"),
            "compute_output": duration("codec_seconds", stage="encode"),
            "cache_hit": {"count": 0, "ns": 0},
            "cache_miss": {"count": 0, "ns": 0},
        },
        "response_stats": {},
        "batch_stats": [
            {"batch_size": size, "compute_infer": duration("batch_size_seconds", rows=str(size))}
            for size in batch_sizes
        ],
        "memory_usage": [],
    }
