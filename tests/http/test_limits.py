"""What one client may take of the server, and what it is told beyond it."""

import gzip
import json
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from time import monotonic, sleep

import httpx
import numpy as np
import pytest

from service.http_protocol import MOST_AHEAD
from service.openapi import DIGIT
from tests.http.sockets import HEADER, ROW, connected, request, y_of

Process = Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]
Serve = Callable[..., AbstractContextManager[str]]
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]}
SHORT_S = 0.5


def error_in(body: bytes) -> str:
    found = json.loads(body)
    assert found.keys() == {"error"}
    return str(found["error"])


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"GET /v2 HTTP/1.1\r\nHost: a", "head had not come after 0.5 s"),
        (request()[:-10], "body had not come after 0.5 s"),
        (request()[: -len(ROW) - len(HEADER)], "body had not come after 0.5 s"),
    ],
    ids=["head", "body", "no body"],
)
def test_a_client_that_keeps_us_waiting_is_told_so(serve: Serve, sent: bytes, words: str) -> None:
    with serve(header_timeout_seconds=SHORT_S, body_timeout_seconds=SHORT_S) as address, connected(address) as client:
        client.socket.sendall(sent)
        status, headers, body = client.answer()
        assert (status, headers["connection"]) == (408, "close")
        assert words in error_in(body)
        assert client.is_closed()


def test_bytes_that_trickle_in_do_not_lengthen_the_time_there_is(serve: Serve) -> None:
    with serve(body_timeout_seconds=SHORT_S) as address, connected(address) as client:
        client.socket.sendall(request()[: -len(ROW)])
        client.socket.settimeout(0.05)
        deadline = monotonic() + 20
        while True:
            assert monotonic() < deadline
            client.socket.sendall(b"\0")
            try:
                if client.socket.recv(1, socket.MSG_PEEK):
                    break
            except TimeoutError:
                continue
        client.socket.settimeout(20)
        assert client.answer()[0] == 408


def test_a_connection_without_a_request_is_closed_without_an_answer(serve: Serve) -> None:
    with serve(header_timeout_seconds=SHORT_S) as address, connected(address) as client:
        assert client.is_closed()


def test_a_kept_connection_may_be_idle_for_longer_than_a_head_may_take(serve: Serve) -> None:
    with serve(header_timeout_seconds=SHORT_S) as address, connected(address) as client:
        client.socket.sendall(request())
        y_of(client.answer())
        sleep(3 * SHORT_S)  # what must not happen has no sign to wait for
        client.socket.sendall(request())
        y_of(client.answer())


def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(serve: Serve) -> None:
    with serve(body_timeout_seconds=SHORT_S) as address, connected(address, receive_buffer=4096) as client:
        for _ in range(1000):
            try:
                client.socket.settimeout(2)
                client.socket.sendall(request() * 10)
            except (TimeoutError, ConnectionError):
                break  # it is not read from either, while it does not read
        with pytest.raises(ConnectionError):  # noqa: PT012  # reset: the rest of the answers was thrown away
            deadline = monotonic() + 20
            while monotonic() < deadline:
                client.socket.send(b"x")
                sleep(0.1)


@pytest.mark.parametrize("padding", [5_000, 400_000])
@pytest.mark.parametrize("end", ["\r\n\r\n", ""], ids=["complete", "endless"])
def test_a_head_above_the_limit_is_refused(serve: Serve, padding: int, end: str) -> None:
    with serve(max_header_bytes=4096) as address, connected(address) as client:
        client.socket.sendall(f"GET /v2 HTTP/1.1\r\nHost: a\r\nX: {'x' * padding}{end}".encode())
        status, headers, body = client.answer()
        assert (status, headers["connection"]) == (431, "close")
        assert "more than 4096 bytes" in error_in(body)


def test_a_large_body_is_no_large_head(serve: Serve) -> None:
    with serve(max_header_bytes=300) as address, connected(address) as client:
        for _ in range(2):
            client.socket.sendall(request())
            y_of(client.answer())


def test_a_head_behind_another_request_is_bounded_too(serve: Serve) -> None:
    with serve(max_header_bytes=4096) as address, connected(address) as client:
        live = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n"
        client.socket.sendall(live + b"\r\n" + live + b"X: " + b"x" * 5000 + b"\r\n\r\n")
        assert client.answer()[0] == 200
        status, _, body = client.answer()
        assert (status, "more than 4096 bytes" in error_in(body)) == (431, True)


CHUNKED = b"POST /v2/models/layer_norm/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"


def test_trailers_are_bounded(serve: Serve) -> None:
    with serve(max_header_bytes=4096) as address, connected(address) as client:
        client.socket.sendall(CHUNKED)
        sleep(0.2)  # for what comes with the head is bounded by what is read at once
        client.socket.sendall(b"a: b\r\n" * 2000)
        status, headers, body = client.answer()
        assert (status, headers["connection"]) == (431, "close")
        assert "more than 4096 bytes" in error_in(body)


def test_a_trailer_is_no_header(serve: Serve) -> None:
    with serve(api_key="secret") as address, connected(address) as client:
        client.socket.sendall(CHUNKED + b"X-API-Key: secret\r\n\r\n")
        assert client.answer()[0] == 401


def test_more_requests_ahead_than_are_kept_end_the_connection_behind_those_that_are(serve: Serve) -> None:
    with serve() as address, connected(address) as client:
        client.socket.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n" * (MOST_AHEAD + 50))
        answers = [client.answer() for _ in range(MOST_AHEAD + 1)]
        assert {status for status, _, _ in answers} == {200}
        assert [headers.get("connection") for _, headers, _ in answers[-2:]] == [None, "close"]
        assert client.is_closed()


def test_what_is_wrong_behind_an_answer_under_way_does_not_get_into_it(serve: Serve) -> None:
    x = np.ones((2048, 768), "f4").tobytes()
    header = HEADER.replace(b"[1,768]", b"[2048,768]").replace(b"3072", b"%d" % len(x))
    head = f"POST /v2/models/layer_norm/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(header + x)}\r\n"
    head += f"Inference-Header-Content-Length: {len(header)}\r\n\r\n"
    with serve() as address, connected(address, receive_buffer=4096) as client:
        client.socket.sendall(head.encode() + header + x)
        client.socket.recv(1, socket.MSG_PEEK)  # it has begun
        client.socket.sendall(b"nothing that is HTTP\r\n\r\n")
        assert y_of(client.answer()).tobytes() == bytes(len(x))  # a constant row's is the bias
        assert client.is_closed()


def test_an_empty_line_does_not_keep_a_connection(serve: Serve) -> None:
    with serve(header_timeout_seconds=SHORT_S) as address, connected(address) as client:
        client.socket.sendall(request())
        y_of(client.answer())
        client.socket.sendall(b"\r\n")
        assert client.answer()[0] == 408


def test_what_is_left_of_an_answer_does_not_keep_a_connection(process: Process) -> None:
    """Fewer bytes than make uvicorn wait for the client."""
    with (
        process("--body-timeout-seconds", "0.5", "--drain-seconds", "0") as (running, address),
        connected(address, receive_buffer=4096) as client,
    ):
        client.socket.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        client.socket.recv(1, socket.MSG_PEEK)
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0


def test_json_beside_the_numbers_is_bounded(address: str) -> None:
    for path in ("/v2/models/layer_norm/infer", "/v1/ops/layer_norm"):
        answer = httpx.post(address + path, content=b'{"inputs":[' + b"[]," * 400_000 + b"[]]}")
        assert answer.status_code == 400
        assert "are no list of numbers under data, at most 1048576 may be" in answer.json()["error"]


def test_health_is_answered_however_many_connections_there_are(serve: Serve) -> None:
    with serve(max_connections=1) as address, connected(address) as client:
        client.socket.sendall(request())
        y_of(client.answer())
        assert httpx.get(f"{address}/v2/health/live").status_code == 200
        assert httpx.get(f"{address}/v2/models").status_code == 503


def test_connections_beyond_the_limit_are_told_to_try_again(serve: Serve) -> None:
    with serve(max_connections=3) as address, ExitStack() as open_ones:
        clients = [open_ones.enter_context(connected(address)) for _ in range(3)]
        for client in clients:
            client.socket.sendall(request())
            y_of(client.answer())
        with connected(address) as refused:
            refused.socket.sendall(request())
            status, headers, body = refused.answer()
            assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
            assert "3 connections are open" in error_in(body)
            assert refused.is_closed()
        clients[0].socket.sendall(request())
        y_of(clients[0].answer())
        clients[0].file.close()
        clients[0].socket.close()
        deadline = monotonic() + 20
        while httpx.post(f"{address}/v2/models/ln-mlp-digits/infer", json=BODY).status_code != 200:
            assert monotonic() < deadline


def test_an_answer_above_the_limit_is_refused(serve: Serve) -> None:
    with serve(max_output_bytes=39) as address:
        for path, body, nbytes in (
            ("/v2/models/ln-mlp-digits/infer", BODY, 40),
            ("/v1/ops/layer_norm", {"x": [[1.0, 2.0] * 5]}, 40),
        ):
            answer = httpx.post(address + path, json=body)
            assert answer.status_code == 413
            assert f"the outputs have {nbytes} bytes, the server answers with at most 39" in answer.json()["error"]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"timeout": -1}, "parameter timeout is -1, it must be an integer from 0 up"),
        ({"timeout": 1.5}, "parameter timeout is 1.5"),
        ({"priority": "high"}, "parameter priority is 'high', it must be an integer from 0 up"),
        ({"priority": True}, "parameter priority is true"),
    ],
)
@pytest.mark.parametrize("model", ["ln-mlp-digits", "layer_norm"])
def test_a_wrong_deadline_or_priority_is_refused(address: str, model: str, parameters: object, words: str) -> None:
    answer = httpx.post(f"{address}/v2/models/{model}/infer", json=BODY | {"parameters": parameters})
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_a_request_that_cannot_be_answered_in_time_is_504_and_not_computed(serve: Serve) -> None:
    with serve(max_queue_delay_ms=10_000) as address:  # nothing runs before its time is over
        url = f"{address}/v2/models/ln-mlp-digits/infer"
        answer = httpx.post(url, json=BODY | {"parameters": {"timeout": 30_000, "priority": 1}})
        assert answer.status_code == 504
        assert "no answer within 30 ms" in answer.json()["error"]
        metrics = httpx.get(f"{address}/metrics").text
    assert 'normserve_rejected_total{model="ln-mlp-digits",reason="deadline",version="1"} 1.0' in metrics
    assert 'normserve_batches_total{model="ln-mlp-digits",version="1"} 1.0' not in metrics


def test_the_servers_own_deadline_holds_without_a_word_from_the_client(serve: Serve) -> None:
    with serve(max_queue_delay_ms=10_000, request_timeout_ms=30) as address:
        for parameters in ({}, {"timeout": 0}, {"timeout": 60_000_000}):
            answer = httpx.post(f"{address}/v2/models/ln-mlp-digits/infer", json=BODY | {"parameters": parameters})
            assert (answer.status_code, "within 30 ms" in answer.text) == (504, True)


@pytest.mark.parametrize("rows", [1, 200], ids=["small", "large"])
def test_a_client_that_leaves_costs_no_run_and_is_counted(serve: Serve, rows: int) -> None:
    model, size = "ln-mlp-digits", 64
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, size], "data": [1.0] * rows * size}
    text = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(text)}\r\n\r\n"
    labels = f'{{model="{model}",version="1"}}'
    with serve(max_queue_delay_ms=60_000, max_batch_size=256) as address:

        def metric(name: str) -> float:
            found = [
                line for line in httpx.get(f"{address}/metrics").text.splitlines() if line.startswith(name + labels)
            ]
            return float(found[0].split()[1]) if found else 0.0

        def wait_for(name: str, value: float) -> None:
            deadline = monotonic() + 20
            while metric(name) != value:
                assert monotonic() < deadline
                sleep(0.01)

        with connected(address) as client:
            client.socket.sendall(head.encode() + text)
            wait_for("normserve_pending_requests", 1)
        wait_for("normserve_cancelled_total", 1)
        assert metric("normserve_pending_requests") == 0
        assert metric("normserve_batches_total") == 0


MIB = 2**20
ROW_BYTES = 3072  # of 768 numbers


def large_request(mib: int, *headers: str, encoding: str = "identity") -> bytes:
    """Head and body of a request of so many MiB, less what fills no row."""
    x = bytes(mib * MIB // ROW_BYTES * ROW_BYTES - ROW_BYTES)
    header = HEADER.replace(b"[1,768]", b"[%d,768]" % (len(x) // ROW_BYTES)).replace(b"3072", b"%d" % len(x))
    body = gzip.compress(header + x) if encoding == "gzip" else header + x
    lines = [
        "POST /v2/models/layer_norm/infer HTTP/1.1",
        "Host: a",
        f"Content-Length: {len(body)}",
        f"Content-Encoding: {encoding}",
        f"Inference-Header-Content-Length: {len(header)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answered(address: str, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    with connected(address) as client:
        client.socket.sendall(sent)
        return client.answer()


def until_full(address: str, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """The refusal of a request of which only the head comes: it takes no room from those that are to fill it."""
    deadline = monotonic() + 20
    while True:
        assert monotonic() < deadline
        with connected(address) as client:
            client.socket.settimeout(0.2)
            client.socket.sendall(sent.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            with suppress(TimeoutError):
                return client.answer()


def until_answered(address: str, sent: bytes) -> None:
    deadline = monotonic() + 20
    while (answer := answered(address, sent))[0] != 200:
        assert monotonic() < deadline, answer


@pytest.mark.parametrize("way", ["declared", "chunked"])
def test_the_bodies_of_all_connections_together_are_bounded(serve: Serve, way: str) -> None:
    """Those that have half come count; when their clients leave, all is free again."""
    plain, zipped = large_request(3), large_request(3, encoding="gzip")
    with serve(max_body_bytes=4 * MIB, max_bodies_bytes=8 * MIB) as address:
        with ExitStack() as open_ones:
            for _ in range(2):
                slow = open_ones.enter_context(connected(address))
                if way == "declared":
                    slow.socket.sendall(plain[:-1])
                else:
                    slow.socket.sendall(CHUNKED.removesuffix(b"0\r\n") + b"%x\r\n" % (3 * MIB) + bytes(3 * MIB))
            status, headers, body = until_full(address, plain)
            assert (status, headers["retry-after"]) == (429, "1")
            assert "all together may have 8388608 (the server's setting MAX_BODIES_BYTES)" in error_in(body)
            assert answered(address, plain)[0] == answered(address, zipped)[0] == 429
            assert httpx.post(f"{address}/v1/ops/layer_norm", content=b" " * 3 * MIB).status_code == 429
            assert httpx.post(f"{address}/v2/models/ln-mlp-digits/infer", json=BODY).status_code == 200
            assert httpx.post(f"{address}/v2/repository/index").status_code == 200
            assert answered(address, large_request(1))[0] == 200
            labels = '{model="layer_norm",reason="bodies_full",version="1"}'
            assert f"normserve_rejected_total{labels}" in httpx.get(f"{address}/metrics").text
        for each in (plain, zipped):
            until_answered(address, each)
        for _ in range(20):  # each gives back what it had, or the last would find no room
            assert answered(address, plain)[0] == 200


def test_many_small_bodies_that_become_large_do_not_take_the_memory_there_is(process: Process) -> None:
    sent, most = large_request(16, encoding="gzip"), str(16 * MIB)
    assert len(sent) < 2**16
    flags = "--max-body-bytes", most, "--max-bodies-bytes", most, "--max-queue-bytes", most, "--max-output-bytes", "1"
    with process(*flags) as (running, address), ExitStack() as open_ones:
        Path(f"/proc/{running.pid}/clear_refs").write_text("5")  # the peak begins here

        def most_resident() -> int:
            status = Path(f"/proc/{running.pid}/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) * 1024

        before = most_resident()
        clients = [open_ones.enter_context(connected(address)) for _ in range(32)]
        for client in clients:
            client.socket.sendall(sent)
        answers = [client.answer() for client in clients]
        assert {status for status, _, _ in answers} == {413, 429}  # computed, though not answered with; refused
        assert {headers.get("retry-after") for status, headers, _ in answers if status == 429} == {"1"}
        # 60 to 70 MiB: body, queue, what runs and its outputs are 16 each. Without the bound it was 640.
        assert (most_resident() - before) / MIB < 250
        assert answered(address, sent)[0] == 413
        assert answered(address, request())[0] == 413
