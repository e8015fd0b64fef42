"""The end of a process: nobody's request is lost by it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import httpx
import numpy as np
import pytest

from tests.http.sockets import HEADER, ROW, connected, request, y_of

ROOT = Path(__file__).parents[2]
Process = Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]


def told_to_stop(running: subprocess.Popen[str], address: str, number: int = signal.SIGTERM) -> None:
    """Until it says that it was."""
    running.send_signal(number)
    deadline = monotonic() + 20
    while (ready := httpx.get(f"{address}/v2/health/ready")).status_code == 200:
        assert monotonic() < deadline
    assert ready.status_code == 503
    assert "told to stop" in ready.json()["error"]


def test_told_to_stop_it_says_so_and_serves_on(process: Process) -> None:
    with process("--drain-seconds", "3") as (running, address), connected(address) as idle, connected(address) as new:
        idle.socket.sendall(request())
        status, headers, _ = idle.answer()
        assert (status, headers.get("connection")) == (200, None)
        told_to_stop(running, address)
        for client in (idle, new):
            client.socket.sendall(request())
            answer = client.answer()
            assert answer[1]["connection"] == "close"
            y_of(answer)
            assert client.is_closed()
        for path, status in (("/v2/health/live", 200), ("/v2/models/nothing", 404), ("/metrics", 200)):
            answer_to = httpx.get(address + path)
            assert (answer_to.status_code, answer_to.headers["connection"]) == (status, "close")
        assert running.poll() is None
        assert running.wait(30) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/v2/health/live")


def test_told_to_stop_it_loads_and_unloads_no_model(process: Process) -> None:
    with process("--drain-seconds", "600", "--model-control", "explicit") as (running, address):
        told_to_stop(running, address)
        for action in ("load", "unload"):
            refused = httpx.post(f"{address}/v2/repository/models/ln-mlp-digits/{action}")
            assert (refused.status_code, "told to stop" in refused.json()["error"]) == (503, True)
        assert httpx.get(f"{address}/v2/models/ln-mlp-digits/ready").status_code == 200


def test_what_is_in_flight_then_is_answered_with_a_word_to_go(process: Process) -> None:
    with process("--max-queue-delay-ms", "1000") as (running, address), connected(address) as client:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}
        body = json.dumps({"inputs": [tensor]}).encode()
        head = f"POST /v2/models/ln-mlp-digits/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        client.socket.sendall(head.encode() + body)
        pending = 'normserve_pending_requests{model="ln-mlp-digits",version="1"} 1.0'
        deadline = monotonic() + 20
        while pending not in httpx.get(f"{address}/metrics").text:
            assert monotonic() < deadline
        running.send_signal(signal.SIGINT)
        status, headers, _ = client.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert running.wait(30) == 0


def test_an_answer_that_has_begun_then_is_not_the_last_of_its_connection(process: Process) -> None:
    rows = 2048
    x = np.ones((rows, 768), "f4").tobytes()
    header = HEADER.replace(b"[1,768]", b"[%d,768]" % rows).replace(b"3072", b"%d" % len(x))
    large = request().replace(b"Content-Length: %d" % (len(HEADER) + len(ROW)), b"Content-Length: %d" % len(header + x))
    large = large.replace(b"-Content-Length: %d" % len(HEADER), b"-Content-Length: %d" % len(header))
    with process("--drain-seconds", "5") as (running, address), connected(address, receive_buffer=4096) as client:
        client.socket.sendall(large.replace(HEADER + ROW, header + x))
        client.socket.recv(1, socket.MSG_PEEK)
        told_to_stop(running, address)
        answer = client.answer()
        assert "connection" not in answer[1]
        assert y_of(answer).shape == (rows * 768,)
        client.socket.sendall(request())
        answer = client.answer()
        assert answer[1]["connection"] == "close"
        y_of(answer)


def test_told_twice_it_ends_at_once(process: Process) -> None:
    with process("--drain-seconds", "600") as (running, address):
        told_to_stop(running, address)
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == -signal.SIGTERM


def test_ctrl_c_does_not_make_anybody_wait(process: Process) -> None:
    with process("--drain-seconds", "600") as (running, _):
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 0


def test_it_can_be_told_to_stop_before_its_models_are_loaded() -> None:
    command = [sys.executable, "-m", "service", "--port", "0", "--drain-seconds", "0"]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert running.stderr
    for line in running.stderr:  # the first says that the process has begun
        assert "Started server process" in line
        break
    running.send_signal(signal.SIGTERM)
    _, log = running.communicate(timeout=30)
    assert running.returncode == 0
    assert "Traceback" not in log


def test_make_serve_ends_as_its_service_does() -> None:
    """By the signal that a container's or a service manager's init sends to its process."""
    command = ["make", "--silent", "serve"]
    environment = {**os.environ, "NORMSERVE_PORT": "0", "NORMSERVE_DRAIN_SECONDS": "0"}
    making = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    assert making.stderr
    log: list[str] = []
    reading = Thread(target=lambda: log.extend(making.stderr or ()))
    reading.start()
    deadline = monotonic() + 60
    while not any("are ready" in line for line in log):
        assert monotonic() < deadline, log
        sleep(0.02)
    started = next(line for line in log if "Started server process" in line)
    os.kill(int(started.rpartition("[")[2].rstrip("]\n")), signal.SIGTERM)
    assert making.wait(30) == 0
    reading.join(20)
    making.stderr.close()
