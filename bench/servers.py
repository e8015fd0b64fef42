"""A server as a process of its own: started, waited for, measured, and ended with all its children."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil

START_SECONDS, STOP_SECONDS = 120, 20


@dataclass(frozen=True)
class Server:
    """One that answers."""

    process: psutil.Process
    log: BinaryIO

    def said(self) -> str:
        """What it has written to its log so far."""
        file = self.log.fileno()  # by pread: seeking would move the place where the process writes
        return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")

    def cpu_seconds(self) -> float:
        """Processor time that it and its children have used so far."""
        used = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
        return used

    def resident_bytes(self) -> int:
        """Memory that is its own, its children's included."""
        used = 0
        for process in (self.process, *self.process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                used += process.memory_info().rss
        return used


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


@contextmanager
def running(command: Sequence[str | Path], ready: str, **environment: str) -> Iterator[Server]:
    """``command`` as a group of processes, once ``ready`` answers 200. Raises RuntimeError when it never does."""
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        started = subprocess.Popen(  # noqa: S603
            command, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT, process_group=0
        )
        stack.callback(_end, started)
        try:
            _wait(started, ready)
        except RuntimeError as error:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(said[-1] if said else str(error)) from error
        yield Server(psutil.Process(started.pid), log)


def _end(started: subprocess.Popen[bytes]) -> None:
    """The whole group, patiently at first."""
    if started.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            started.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait()


@contextmanager
def normserve(port: int, **settings: str) -> Iterator[Server]:
    """The service on ``port``, with these settings."""
    environment = {f"NORMSERVE_{name.upper()}": value for name, value in {"port": str(port), **settings}.items()}
    with running([sys.executable, "-m", "service"], f"http://127.0.0.1:{port}/v2/health/ready", **environment) as ours:
        yield ours


@contextmanager
def asgi(app: str, port: int, **environment: str) -> Iterator[Server]:
    """An ASGI application under uvicorn as the service runs it: uvloop, httptools, no access log."""
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning", "--no-access-log"]
    with running(command, f"http://127.0.0.1:{port}/ready", **environment) as theirs:
        yield theirs


def _wait(process: subprocess.Popen[bytes], ready: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode} before {ready} answered")
        try:
            with urlopen(ready):  # noqa: S310  # our own address
                return
        except HTTPError as error:
            error.close()
        except OSError:
            pass
        time.sleep(0.02)
    raise RuntimeError(f"{ready} did not answer within {START_SECONDS} s")
