"""What is noted of one request, for the log of requests and for traces; where both are off, nothing is."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

RECORD = "normserve.record"  # of a scope

Span = tuple[float, float]  # from, to; as all times here in the seconds of ``time.perf_counter``


trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)


@dataclass(slots=True)
class Run:
    """A run of a model, which several requests may have shared."""

    rows: int
    span: Span
    links: list[Any] = field(default_factory=list)  # of the requests in it


@dataclass(slots=True)
class Record:
    """Filled in by whoever does the work; what did not happen stays None."""

    began: float
    ended: float = 0.0
    status: int | None = None
    bytes_in: int = 0  # of the body, as far as it was read
    bytes_out: int = 0  # of the body
    model: str | None = None  # one that is there, never what a client sent
    decode: Span | None = None
    queue: Span | None = None
    run: Run | None = None
    encode: Span | None = None
    # Of OpenTelemetry's types, which may not be installed: the request's span, what others link to, its trace in hex.
    span: Any = None
    link: Any = None
    trace_id: str | None = None
