"""What a container's health is told by."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service.healthcheck import problem

ROOT = Path(__file__).parents[2]


def answering(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1024)
        connection.sendall(answer)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", None),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "not ready: HTTP/1.1 503 Service Unavailable"),
        (b"", "not ready: "),
    ],
)
def test_it_is_ready_when_it_says_so(answer: bytes, said: str | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answering, args=(listener, answer))
        thread.start()
        assert problem(listener.getsockname()[1]) == said
        thread.join()


def test_where_nobody_listens_it_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert (problem(port) or "").startswith(f"no answer on port {port}: ")


def test_as_a_process_it_asks_the_real_service_and_says_why_not(address: str) -> None:
    port = address.rpartition(":")[2]
    # As the image runs it: nothing of the environment, or of installed packages, is loaded.
    command = [sys.executable, "-I", "-S", "service/healthcheck.py"]
    ready = subprocess.run(command, cwd=ROOT, env={"NORMSERVE_PORT": port}, capture_output=True, text=True)
    assert (ready.returncode, ready.stderr) == (0, "")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = str(listener.getsockname()[1])
    down = subprocess.run(command, cwd=ROOT, env={"NORMSERVE_PORT": closed}, capture_output=True, text=True)
    assert down.returncode == 1
    assert f"no answer on port {closed}" in down.stderr
