"""The service as a process of its own."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest

ROOT = Path(__file__).parents[2]


@contextmanager
def started(*flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The service on a free port, once it is ready, and its address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "service", "--port", str(port), *flags]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = monotonic() + 60
        while True:
            assert running.poll() is None, running.stderr and running.stderr.read()
            assert monotonic() < deadline
            try:
                if httpx.get(f"{address}/v2/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                sleep(0.02)
        yield running, address
    finally:
        running.kill()
        running.wait()
        assert running.stderr
        running.stderr.close()


@pytest.fixture(scope="session")
def process() -> Callable[..., object]:
    """``with process("--max-batch-size", "4") as (running, address):``."""
    return started


@pytest.fixture(scope="session")
def process_address() -> Iterator[str]:
    """The address of one with default settings: its event loop is not the tests' own interpreter's."""
    with started() as (_, address):
        yield address
