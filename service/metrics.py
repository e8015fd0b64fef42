"""Counters and histograms, each named once; ``/metrics`` and the protocol's statistics both read them."""

import math
import time
from asyncio import CancelledError
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, generate_latest

from service.counters import Counters, Distribution, Family, Merge, Number
from service.errors import STATUS, BodiesFullError, ClientGoneError, DeadlineError, QueueFullError, ServiceError
from service.tallies import Tallies

SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = tuple(2**power for power in range(10))
REASONS: dict[type, str] = {  # others: "not_ready"
    QueueFullError: "queue_full",
    BodiesFullError: "bodies_full",
    DeadlineError: "deadline",
}
MODEL = ("model", "version")


class Metrics:
    """One registry and what is in it. Labels are names of models that are there, never what a client sent."""

    def __init__(self, tallies: Tallies | None = None) -> None:
        """tallies: what this worker counts in, where it is one of several."""
        counters = Counters(tallies or Tallies())
        self._of_models: dict[tuple[str, str], ModelMetrics] = {}
        self.registry = CollectorRegistry()
        self.registry.register(counters)

        def histogram(name: str, what: str, *labels: str, bounds: Sequence[float] = SECONDS) -> Family[Distribution]:
            return counters.histogram(f"normserve_{name}", what, *MODEL, *labels, bounds=bounds)

        def counter(name: str, what: str, *labels: str) -> Family[Number]:
            return counters.counter(f"normserve_{name}", what, *MODEL, *labels)

        def gauge(name: str, what: str, merge: Merge) -> Family[Number]:
            return counters.gauge(f"normserve_{name}", what, *MODEL, merge=merge)

        self.requests = counter("requests", "Inference requests, by how they ended.", "outcome")
        self.request_seconds = histogram("request_seconds", "From a request's arrival to its answer.", "outcome")
        self.rows = counter("rows", "Rows computed.")
        self.batches = counter("batches", "Runs of the model.")
        self.batch_rows = histogram("batch_rows", "Rows in a run.", bounds=ROWS)
        self.queue_seconds = histogram("queue_seconds", "A request's wait for a free instance.")
        self.compute_seconds = histogram("compute_seconds", "A run of the model, merging and splitting included.")
        self.codec_seconds = histogram("codec_seconds", "Reading (decode) and writing (encode) tensors.", "stage")
        self.pending_requests = gauge("pending_requests", "Requests waiting for an instance or being computed.", sum)
        self.rejected = counter("rejected", "Requests turned away, or whose time was over, computed or not.", "reason")
        self.cancelled = counter(
            "cancelled", "Requests whose client left, or kept us waiting for their bodies, before the answer."
        )
        self.model_ready = gauge("model_ready", "1 while the model serves, 0 while it does not.", min)
        self.last_inference = gauge("last_inference_timestamp_seconds", "When the model last ran, Unix time.", max)
        counters.gauge("normserve_workers", "Processes that serve.", merge=sum).labels().value = 1
        # A series for each number of rows that was seen: at most max_rows of them a model.
        self.batch_size_seconds = counters.summary(
            "normserve_batch_size_seconds", "Runs, by their exact rows.", *MODEL, "rows"
        )

    def of_model(self, name: str, version: str) -> "ModelMetrics":
        """The part of it that is one model's, which goes on counting however often the model is loaded."""
        if (name, version) not in self._of_models:
            self._of_models[name, version] = ModelMetrics(self, name, version)
        return self._of_models[name, version]

    def render(self) -> bytes:
        """The text of GET /metrics."""
        return generate_latest(self.registry)


class ModelMetrics:
    """One model's counters, with their labels bound once. Only the event loop's thread counts."""

    def __init__(self, metrics: Metrics, name: str, version: str) -> None:
        self._metrics, self._labels = metrics, (name, version)
        self._rows = metrics.rows.labels(*self._labels)
        self._batches = metrics.batches.labels(*self._labels)
        self._batch_rows = metrics.batch_rows.labels(*self._labels)
        self._queue_seconds = metrics.queue_seconds.labels(*self._labels)
        self._compute_seconds = metrics.compute_seconds.labels(*self._labels)
        self._pending = metrics.pending_requests.labels(*self._labels)
        self._ready = metrics.model_ready.labels(*self._labels)
        self._pending.value = self._ready.value = 0  # whatever a worker that died had there
        self._last_inference = metrics.last_inference.labels(*self._labels)
        self._batch_size_seconds: dict[int, Distribution] = {}
        self._ended: dict[str, tuple[Number, Distribution]] = {}
        # Observed of what succeeds alone: bad input is no codec's work.
        self.decode_seconds = metrics.codec_seconds.labels(*self._labels, "decode")
        self.encode_seconds = metrics.codec_seconds.labels(*self._labels, "encode")

    def set_ready(self, is_ready: bool) -> None:
        """Whether the model serves."""
        self._ready.value = float(is_ready)

    def set_gone(self) -> None:
        """There is no such version any more: whoever is alarmed by a model that does not serve need not be."""
        self._ready.value = math.nan

    def observe_batch(self, rows: int, queue_seconds: Sequence[float], compute_seconds: float) -> None:
        """A run of ``rows`` rows: how long each request in it had waited, and how long the run took."""
        self._rows.value += rows
        self._batches.value += 1
        self._batch_rows.observe(rows)
        self._compute_seconds.observe(compute_seconds)
        if rows not in self._batch_size_seconds:
            self._batch_size_seconds[rows] = self._metrics.batch_size_seconds.labels(*self._labels, rows)
        self._batch_size_seconds[rows].observe(compute_seconds)
        for seconds in queue_seconds:
            self._queue_seconds.observe(seconds)
        self._last_inference.value = time.time()

    def pending_changed(self, by: int) -> None:
        """So many more, or fewer, requests are waiting or running."""
        self._pending.value += by

    def request(self) -> "CountedRequest":
        """Count and time the request handled inside, by how it ends."""
        return CountedRequest(self)

    def request_ended(self, error: BaseException | None, seconds: float) -> None:
        """One request has been answered, or raised ``error``."""
        outcome = "success" if error is None else self._outcome(error)
        if outcome not in self._ended:
            labels = (*self._labels, outcome)
            self._ended[outcome] = self._metrics.requests.labels(*labels), self._metrics.request_seconds.labels(*labels)
        count, distribution = self._ended[outcome]
        count.value += 1
        distribution.observe(seconds)

    def _outcome(self, error: BaseException) -> str:
        if isinstance(error, CancelledError | ClientGoneError):
            self._metrics.cancelled.labels(*self._labels).value += 1
            return "cancelled"
        status = STATUS[type(error)] if isinstance(error, ServiceError) else 500
        if status < 429:
            return "invalid"
        if status == 500:
            return "failed"
        reason = REASONS.get(type(error), "not_ready")
        self._metrics.rejected.labels(*self._labels, reason).value += 1
        return "rejected"


class CountedRequest:
    """See :meth:`ModelMetrics.request`. A class, because contextlib's generators take three times as long."""

    __slots__ = ("_metrics", "_started")

    def __init__(self, metrics: ModelMetrics) -> None:
        self._metrics = metrics

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        self._metrics.request_ended(error, time.perf_counter() - self._started)
