"""Fixtures that several folders of tests use."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
from xdist.scheduler import LoadScopeScheduling

from service.cuda import NoGpuError, find_gpu
from service.provider import Provider, provider_of
from service.server import Server
from service.settings import SettingError, Settings
from tests.container.engine import MEASURED, STANDIN_BASE

ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "artifacts"
PATIENCE_S = 60
BUILDS_ONCE = ("tests/container/", "tests/export/")


@cache
def without_gpu() -> str:
    """Why tests marked ``gpu`` cannot run here; nothing where they can."""
    try:
        find_gpu()
    except NoGpuError as error:
        return str(error)
    return ""


class ByFixtures(LoadScopeScheduling):
    """What shares fixtures runs in one process: a file's tests, and those of a folder that builds one thing for all."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in BUILDS_ONCE if file.startswith(folder)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFixtures:
    return ByFixtures(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that reports what this one has measured, where tests run in several."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["container"] = MEASURED


def pytest_testnodedown(node: Any) -> None:
    MEASURED.update(getattr(node, "workeroutput", {}).get("container", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if MEASURED:
        base = "a stand-in for python:3.11-slim, made from Debian packages" if STANDIN_BASE else "python:3.11-slim"
        terminalreporter.section("container")
        for what, measured in {"base": base, **MEASURED}.items():
            terminalreporter.write_line(f"{what}: {measured}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and (reason := without_gpu()):
        pytest.skip(reason)


@contextmanager
def running(settings: Settings) -> Iterator[str]:
    """The real server on a free port of this machine, in a thread: yields its address once models were tried."""
    server = Server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = monotonic() + PATIENCE_S
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert monotonic() < deadline
            sleep(0.01)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        while "being loaded" in httpx.get(f"{address}/v2/health/ready").text:
            assert monotonic() < deadline
            sleep(0.01)
        yield address
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture(scope="session")
def serve() -> Callable[..., object]:
    """``with serve(max_batch_size=4, ...) as address:`` serves the committed artifacts, or ``model_repository``."""
    return lambda **settings: running(Settings(**({"port": 0, "model_repository": ARTIFACTS} | settings)))


@pytest.fixture(scope="session", autouse=True)
def covered() -> dict[str, str]:
    """The environment of a process that is measured as well; others are not, for they would take half as long again."""
    return {name: os.environ.pop(name) for name in ("COVERAGE_PROCESS_CONFIG",) if name in os.environ}


@pytest.fixture(scope="session")
def openvino() -> Provider:
    """OpenVINO at fp32. Skips where it has no wheel, and where it does not take the processor (AMD's)."""
    pytest.importorskip("onnxruntime_ep_openvino", reason="the extra openvino is not installed, or has no wheel here")
    try:
        return provider_of(Settings(model_repository=ARTIFACTS, execution_provider="openvino"))
    except SettingError as error:
        if "does not support the processor" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def address(serve: Callable[..., object]) -> Iterator[str]:
    """The address of a server that serves the committed artifacts with default settings."""
    with serve() as address:
        yield address
