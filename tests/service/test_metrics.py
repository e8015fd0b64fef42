import asyncio
from contextlib import nullcontext

import pytest

from service.errors import (
    BodiesFullError,
    ClientGoneError,
    InferenceError,
    InvalidInputError,
    ModelNotReadyError,
    QueueFullError,
)
from service.metrics import Metrics
from service.statistics import model_statistics


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidInputError("bad"), "invalid"),
        (QueueFullError("m", "1", ""), "rejected"),
        (BodiesFullError(2, 3), "rejected"),
        (ModelNotReadyError("loading"), "rejected"),
        (InferenceError("m"), "failed"),
        (RuntimeError("a bug"), "failed"),
        (ClientGoneError("gone"), "cancelled"),
        (asyncio.CancelledError(), "cancelled"),
        (None, "success"),
    ],
)
def test_every_request_is_counted_once_by_how_it_ended(error: BaseException | None, outcome: str) -> None:
    metrics = Metrics()
    with pytest.raises(type(error)) if error else nullcontext(), metrics.of_model("m", "1").request():
        if error:
            raise error
    counted = {
        sample.labels["outcome"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "normserve_requests_total"
    }
    assert counted == {outcome: 1}
    stats = model_statistics(metrics, [("m", "1")])["model_stats"][0]["inference_stats"]
    assert stats["success" if error is None else "fail"]["count"] == 1
    assert stats["success" if error is not None else "fail"]["count"] == 0


def test_rejections_name_their_reason_and_departures_are_counted() -> None:
    metrics = Metrics()
    model = metrics.of_model("m", "1")
    errors = BodiesFullError(2, 3), ModelNotReadyError("x"), ClientGoneError("x")
    for error in (QueueFullError("m", "1", ""), QueueFullError("m", "1", ""), *errors):
        with pytest.raises(type(error)), model.request():
            raise error
    text = metrics.render().decode()
    assert 'normserve_rejected_total{model="m",reason="queue_full",version="1"} 2.0' in text
    assert 'normserve_rejected_total{model="m",reason="bodies_full",version="1"} 1.0' in text
    assert 'normserve_rejected_total{model="m",reason="not_ready",version="1"} 1.0' in text
    assert 'normserve_cancelled_total{model="m",version="1"} 1.0' in text


def test_statistics_add_up_to_what_was_observed() -> None:
    metrics = Metrics()
    model, other = metrics.of_model("m", "1"), metrics.of_model("m", "2")
    model.observe_batch(4, [0.25, 0.5], 0.125)
    model.observe_batch(4, [0.25], 0.375)
    model.observe_batch(1, [0.0], 0.5)
    other.observe_batch(64, [1.0], 1.0)
    model.decode_seconds.observe(0.25)
    stats = model_statistics(metrics, [("m", "1"), ("never", "1")])["model_stats"]
    assert (stats[0]["inference_count"], stats[0]["execution_count"]) == (9, 3)
    assert stats[0]["inference_stats"]["queue"] == {"count": 4, "ns": 1_000_000_000}
    assert stats[0]["inference_stats"]["compute_infer"] == {"count": 3, "ns": 1_000_000_000}
    assert stats[0]["inference_stats"]["compute_input"] == {"count": 1, "ns": 250_000_000}
    assert stats[0]["batch_stats"] == [
        {"batch_size": 1, "compute_infer": {"count": 1, "ns": 500_000_000}},
        {"batch_size": 4, "compute_infer": {"count": 2, "ns": 500_000_000}},
    ]
    assert (stats[1]["inference_count"], stats[1]["last_inference"], stats[1]["batch_stats"]) == (0, 0, [])


def test_pending_requests_return_to_zero() -> None:
    metrics = Metrics()
    model = metrics.of_model("m", "1")
    model.pending_changed(+1)
    assert 'normserve_pending_requests{model="m",version="1"} 1.0' in metrics.render().decode()
    model.pending_changed(-1)
    assert 'normserve_pending_requests{model="m",version="1"} 0.0' in metrics.render().decode()
