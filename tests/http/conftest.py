"""The service as a process of its own."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import monotonic, sleep
from types import MappingProxyType
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]


@contextmanager
def started(
    *flags: str, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The service on a free port, once it is ready, and its address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "service", "--port", str(port), *flags]
    running = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True)
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
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, which are loaded sooner than eleven."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("ln-mlp-digits", "bn-mlp-digits"):
        shutil.copytree(ROOT / "artifacts" / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def process(repository: Path) -> Callable[..., object]:
    """``with process("--max-batch-size", "4") as (running, address):``; it serves two models unless told others."""

    def process(*flags: str, **more: Any) -> AbstractContextManager[tuple[subprocess.Popen[str], str]]:
        served = () if "--model-repository" in flags else ("--model-repository", str(repository))
        return started(*served, *flags, **more)

    return process


@pytest.fixture(scope="session")
def process_address() -> Iterator[str]:
    """The address of one with default settings: its event loop is not the tests' own interpreter's."""
    with started() as (_, address):
        yield address
