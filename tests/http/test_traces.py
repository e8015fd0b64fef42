"""Traces, as a collector receives them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from service.openapi import DIGIT
from tests.waiting import ended

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

ROOT = Path(__file__).parents[2]
Process = Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]
DIGITS = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]}
INFER = "/v2/models/ln-mlp-digits/infer"
ON = ("--traces", "otlp", "--drain-seconds", "0")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
Requests = list[Any]


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Requests]:
    """What a collector has been sent, which the environment names."""
    requests: Requests = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # http.server's name
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            requests.append(trace_service.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield requests
        server.shutdown()
        thread.join()


def spans_of(requests: Requests, trace_id: str) -> list[Any]:
    spans = [
        span for request in requests for part in request.resource_spans for s in part.scope_spans for span in s.spans
    ]
    return [span for span in spans if span.trace_id.hex() == trace_id]


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_a_request_goes_on_with_its_clients_trace_and_has_a_span_for_each_part(
    process: Process, covered: dict[str, str], collected: Requests
) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "mine"}
    with process(*ON, "--access-log", "true", "--log-format", "json", environment=covered) as (running, address):
        assert httpx.post(address + INFER, json=DIGITS, headers=headers).status_code == 200
        log = [json.loads(line) for line in ended(running)]
    spans = {span.name: span for span in spans_of(collected, TRACE)}
    server = spans.pop(f"POST {INFER.replace('ln-mlp-digits', '{name}')}")
    assert server.parent_span_id.hex() == PARENT
    assert server.kind == 2  # SERVER
    assert attributes(server)["http.response.status_code"] == 200
    assert attributes(server)["normserve.model"] == "ln-mlp-digits"
    assert attributes(server)["normserve.request_id"] == "mine"
    assert set(spans) == {"decode", "queue", "compute", "encode"}
    times = [server.start_time_unix_nano]
    for name in ("decode", "queue", "compute", "encode"):
        assert spans[name].parent_span_id == server.span_id
        times += [spans[name].start_time_unix_nano, spans[name].end_time_unix_nano]
    times.append(server.end_time_unix_nano)
    # One after the other, but for a microsecond: that a float of seconds can be off by.
    assert all(later - sooner > -1000 for sooner, later in pairwise(times))
    assert [line["trace_id"] for line in log if line["request_id"] == "mine"] == [TRACE]
    resource = attributes(collected[0].resource_spans[0].resource)
    assert resource["service.name"] == "normserve"


def test_requests_that_shared_a_run_are_linked(process: Process, covered: dict[str, str], collected: Requests) -> None:
    traces = [f"{number:032x}" for number in (1, 2, 3)]

    def ask(address: str, trace: str) -> int:
        return httpx.post(address + INFER, json=DIGITS, headers={"traceparent": f"00-{trace}-{PARENT}-01"}).status_code

    flags = (*ON, "--max-queue-delay-ms", "1000", "--max-batch-size", "3")
    with process(*flags, environment=covered) as (running, address):
        with ThreadPoolExecutor(3) as threads:
            assert list(threads.map(lambda trace: ask(address, trace), traces)) == [200] * 3
        ended(running)
    found = [{span.name: span for span in spans_of(collected, trace)} for trace in traces]
    computes = [spans["compute"] for spans in found]
    assert [attributes(span)["normserve.batch_rows"] for span in computes] == [3, 3, 3]
    assert sorted(len(span.links) for span in computes) == [1, 1, 2]  # the first to all, all to the first
    (first,) = [trace for trace, span in zip(traces, computes, strict=True) if len(span.links) == 2]
    for trace, span in zip(traces, computes, strict=True):
        linked = {link.trace_id.hex() for link in span.links}
        assert linked == ({*traces} - {first} if trace == first else {first})


def test_failures_and_other_routes_have_spans_and_paths_are_no_names(
    process: Process, covered: dict[str, str], collected: Requests
) -> None:
    asked = [("POST", "/v2/models/nobody/infer"), ("GET", "/v2/models/ln-mlp-digits"), ("GET", "/nothing")]
    traces = [f"{number:032x}" for number in range(1, 4)]
    with process(*ON, environment=covered) as (running, address):
        for (method, path), trace in zip(asked, traces, strict=True):
            httpx.request(method, address + path, headers={"traceparent": f"00-{trace}-{PARENT}-01"})
        ended(running)
    names = [[span.name for span in spans_of(collected, trace)] for trace in traces]
    assert names == [["POST /v2/models/{name}/infer"], ["GET /v2/models/{name}"], ["GET"]]


def test_a_trace_that_its_client_does_not_sample_is_not_sent_and_answers_all_the_same(
    process: Process, covered: dict[str, str], collected: Requests
) -> None:
    with process(*ON, environment=covered) as (running, address):
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        assert httpx.post(address + INFER, json=DIGITS, headers=headers).status_code == 200
        assert httpx.post(address + INFER, json=DIGITS, headers={"traceparent": "nonsense"}).status_code == 200
        ended(running)
    assert not spans_of(collected, TRACE)


def test_by_default_nothing_of_it_is_imported() -> None:
    code = (
        "import sys; from service.app import create_app; from service.settings import read_settings; "
        "create_app(read_settings([])); "
        "sys.exit(bool({'opentelemetry.sdk', 'opentelemetry.exporter', 'service.traces'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_without_the_extra_it_says_so() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.exporter'] = None; from service.__main__ import main; "
        "sys.exit(main(['--traces', 'otlp']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--traces (NORMSERVE_TRACES) is 'otlp': the extra traces is not installed" in done.stderr
