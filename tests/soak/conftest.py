"""The trials of docs/soak.md: shortened among the other tests, at full length with SOAK=full (``make soak``)."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.report import Line
from bench.servers import Server, free_port, normserve
from bench.trials import FOUND

FULL = os.environ.get("SOAK") == "full"


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether the trials are to last as long as docs/soak.md says."""
    return FULL


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``record(*lines)`` writes down what was measured; at full length, a trial that has done so is not run again."""
    file: Path = FOUND / f"{request.node.name.removeprefix('test_')}.json"
    if FULL and file.exists():
        pytest.skip(f"it has run; to run it again, remove {file}")

    def write(*lines: Line) -> None:
        if FULL:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps([asdict(line) for line in lines]))
        for line in lines:
            print(f"{line.what}: {line.figure} {line.spread}")

    return write


@contextmanager
def started(**settings: str) -> Iterator[tuple[Server, str]]:
    port = free_port()
    with normserve(port, **({"drain_seconds": "0"} | settings)) as server:
        yield server, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def server() -> Callable[..., object]:
    """``with server(max_queue_size="64") as (server, address):``, without the wait before it ends."""
    return started
