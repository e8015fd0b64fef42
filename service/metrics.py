"""Counters and histograms, each named once; ``/metrics`` and the protocol's statistics both read them."""

import time
from asyncio import CancelledError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    disable_created_metrics,
    generate_latest,
)

from service.errors import STATUS, ClientGoneError, QueueFullError, ServiceError

SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = tuple(2**power for power in range(10))
MODEL = ("model", "version")


class Metrics:
    """One registry and what is in it. Labels are names of models that are there, never what a client sent."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody reads

        def histogram(name: str, what: str, *labels: str, buckets: Sequence[float] = SECONDS) -> Histogram:
            return Histogram(f"normserve_{name}", what, (*MODEL, *labels), buckets=buckets, registry=self.registry)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"normserve_{name}", what, (*MODEL, *labels), registry=self.registry)

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"normserve_{name}", what, MODEL, registry=self.registry)

        self.requests = counter("requests_total", "Inference requests, by how they ended.", "outcome")
        self.request_seconds = histogram("request_seconds", "From a request's arrival to its answer.", "outcome")
        self.rows = counter("rows_total", "Rows computed.")
        self.batches = counter("batches_total", "Runs of the model.")
        self.batch_rows = histogram("batch_rows", "Rows in a run.", buckets=ROWS)
        self.queue_seconds = histogram("queue_seconds", "A request's wait for a free instance.")
        self.compute_seconds = histogram("compute_seconds", "A run of the model, merging and splitting included.")
        self.codec_seconds = histogram("codec_seconds", "Reading (decode) and writing (encode) tensors.", "stage")
        self.pending_requests = gauge("pending_requests", "Requests waiting for an instance or being computed.")
        self.rejected = counter("rejected_total", "Requests turned away without being computed.", "reason")
        self.cancelled = counter("cancelled_total", "Requests whose client left before the answer.")
        self.model_ready = gauge("model_ready", "1 while the model serves, 0 while it does not.")
        self.last_inference = gauge("last_inference_timestamp_seconds", "When the model last ran, Unix time.")
        # A series for each number of rows that was seen: at most max_rows of them a model.
        self.batch_size_seconds = Summary(
            "normserve_batch_size_seconds", "Runs, by their exact rows.", (*MODEL, "rows"), registry=self.registry
        )

    def of_model(self, name: str, version: str) -> "ModelMetrics":
        """The part of it that is one model's."""
        return ModelMetrics(self, name, version)

    def render(self) -> bytes:
        """The text of GET /metrics."""
        return generate_latest(self.registry)


class ModelMetrics:
    """One model's counters, with their labels bound once: looking a label up costs more than counting."""

    def __init__(self, metrics: Metrics, name: str, version: str) -> None:
        self._metrics, self._labels = metrics, (name, version)
        self._rows = metrics.rows.labels(*self._labels)
        self._batches = metrics.batches.labels(*self._labels)
        self._batch_rows = metrics.batch_rows.labels(*self._labels)
        self._queue_seconds = metrics.queue_seconds.labels(*self._labels)
        self._compute_seconds = metrics.compute_seconds.labels(*self._labels)
        self._pending = metrics.pending_requests.labels(*self._labels)
        self._last_inference = metrics.last_inference.labels(*self._labels)
        self._codec_seconds = {
            stage: metrics.codec_seconds.labels(*self._labels, stage) for stage in ("decode", "encode")
        }

    def set_ready(self, is_ready: bool) -> None:
        """Whether the model serves."""
        self._metrics.model_ready.labels(*self._labels).set(is_ready)

    def observe_batch(self, rows: int, queue_seconds: Sequence[float], compute_seconds: float) -> None:
        """A run of ``rows`` rows: how long each request in it had waited, and how long the run took."""
        self._rows.inc(rows)
        self._batches.inc()
        self._batch_rows.observe(rows)
        self._compute_seconds.observe(compute_seconds)
        self._metrics.batch_size_seconds.labels(*self._labels, rows).observe(compute_seconds)
        for seconds in queue_seconds:
            self._queue_seconds.observe(seconds)
        self._last_inference.set(time.time())

    def pending_changed(self, by: int) -> None:
        """So many more, or fewer, requests are waiting or running."""
        self._pending.inc(by)

    @contextmanager
    def codec(self, stage: str) -> Iterator[None]:
        """Time what happens inside as ``decode`` or ``encode``, if it succeeds: bad input is no codec's work."""
        started = time.perf_counter()
        yield
        self._codec_seconds[stage].observe(time.perf_counter() - started)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count and time the request handled inside, by how it ends."""
        started, outcome = time.perf_counter(), "success"
        try:
            yield
        except (CancelledError, ClientGoneError):
            outcome = "cancelled"
            self._metrics.cancelled.labels(*self._labels).inc()
            raise
        except ServiceError as error:
            outcome = self._outcome(error)
            raise
        except BaseException:
            outcome = "failed"
            raise
        finally:
            self._metrics.requests.labels(*self._labels, outcome).inc()
            self._metrics.request_seconds.labels(*self._labels, outcome).observe(time.perf_counter() - started)

    def _outcome(self, error: ServiceError) -> str:
        status = STATUS[type(error)]
        if status < 429:
            return "invalid"
        if status == 500:
            return "failed"
        reason = "queue_full" if isinstance(error, QueueFullError) else "not_ready"
        self._metrics.rejected.labels(*self._labels, reason).inc()
        return "rejected"
