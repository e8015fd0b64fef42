"""Traces by OpenTelemetry: a span for each request, and in it spans for what was done; sent by OTLP over HTTP.

Imported only where the setting TRACES asks for it. Where spans go, which are kept and how the service is
called is said by the standard variables OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME and others.
"""

import os

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes
from starlette.types import Scope

from service.access_log import fields_of
from service.infer import INFER_PATHS
from service.record import Record, Run, trace_id
from service.request_id import REQUEST_ID
from service.version import VERSION

W3C = {b"traceparent", b"tracestate"}


class Traces:
    """Begins a request's span where its client's trace has come to, and ends it with what was recorded."""

    def __init__(self) -> None:
        """Spans wait in a queue of OpenTelemetry's, for a thread of its own; it sends what is left when we end."""
        # No global one: FastAPI would find it, and begin spans of its own.
        provider = TracerProvider(resource=_resource())
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = provider.get_tracer("normserve", VERSION)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, scope: Scope, record: Record) -> None:
        """A request has come."""
        carrier = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in W3C}
        parent = self._propagator.extract(carrier, Context())
        span = self._tracer.start_span(scope["method"], parent, SpanKind.SERVER)
        record.span, record.link = span, span.get_span_context()
        record.trace_id = f"{record.link.trace_id:032x}"
        trace_id.set(record.trace_id)

    def end(self, scope: Scope, record: Record) -> None:
        """It has been answered."""
        span = record.span
        if span is None or not span.is_recording():  # the sampler wants none of it
            return

        def at(seconds: float) -> int:
            """As OpenTelemetry counts: ns since 1970."""
            return int(span.start_time + (seconds - record.began) * 1e9)

        inside, run = set_span_in_context(span, Context()), record.run
        for name, part in (("decode", record.decode), ("queue", record.queue), ("encode", record.encode)):
            if part is not None:
                self._tracer.start_span(name, inside, start_time=at(part[0])).end(at(part[1]))
        if run is not None:
            rows: Attributes = {"normserve.batch_rows": run.rows}
            compute = self._tracer.start_span(
                "compute", inside, attributes=rows, links=_links(run, record.link), start_time=at(run.span[0])
            )
            compute.end(at(run.span[1]))
        _describe(span, scope, record)
        span.end(at(record.ended))


def _resource() -> Resource:
    """What the variables say, ours where they leave it open: ``Resource.create`` would have its arguments win."""
    given = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create(
        {SERVICE_VERSION: VERSION} if given else {SERVICE_VERSION: VERSION, SERVICE_NAME: "normserve"}
    )


def _links(run: Run, own: SpanContext) -> list[Link]:
    """From the first request of a run to all others, from those to the first: each to each would be their square."""
    first, *others = run.links
    return [Link(context) for context in (others if own is first else [first])]


def _describe(span: Span, scope: Scope, record: Record) -> None:
    """By the semantic conventions of HTTP. The name has the route, never the path: of those there are any number."""
    fields, route = fields_of(scope, record), _route(scope)
    if route is not None:
        span.update_name(f"{scope['method']} {route}")
    attributes = {
        "http.request.method": fields["method"],
        "url.path": fields["path"],
        "http.route": route,
        "http.response.status_code": record.status,
        "http.request.body.size": record.bytes_in,
        "http.response.body.size": record.bytes_out,
        "normserve.request_id": scope.get(REQUEST_ID, b"").decode() or None,
        "normserve.model": record.model,
    }
    span.set_attributes({name: value for name, value in attributes.items() if value is not None})
    if record.status is None or record.status >= 500:
        span.set_status(StatusCode.ERROR)


def _route(scope: Scope) -> str | None:
    if "route" in scope:
        route: str | None = getattr(scope["route"], "path", None)
        return route
    parameters = scope.get("path_params")  # of infer, which stands before every router
    return INFER_PATHS["version" in parameters] if parameters else None
