"""SIGTERM while 32 clients ask: nobody's request is lost, no connection is reset, and the exit status is 0."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

from bench.asks import mixed
from bench.clients import alone, asking
from bench.report import Line
from bench.servers import free_port, running
from tests.waiting import until

CLIENTS = 32
ENOUGH = 300  # answers before the signal


def test_a_signal_under_32_clients_loses_no_request(server: Any, full: bool, record: Callable[..., None]) -> None:
    times = 20 if full else 2
    asks, asked, lost, answered, statuses = mixed(3), [], list[str](), 0, list[int]()
    for _ in range(times):
        with server(drain_seconds="1") as (started, address):
            # Of the first process: another's answers have the same bytes.
            asked = asked or alone(address, asks)
            with asking(address, asked, CLIENTS) as tally:
                until(lambda tally=tally: tally.answered > ENOUGH)
                started.process.send_signal(signal.SIGTERM)
                statuses.append(started.process.wait(60))
            assert "Traceback" not in started.said()
        answered += tally.answered
        lost += tally.lost
        assert not tally.unexpected
        assert not tally.different
    record(
        Line("SIGTERM under 32 clients: requests lost", len(lost), f"{times} times, {answered} answers", 0, False),
        Line("SIGTERM under 32 clients: exits other than 0", sum(map(bool, statuses)), f"of {times}", 0, False),
        Line("SIGTERM under 32 clients: answers of other bytes", 0, f"of {answered}", 0, False),
    )
    assert not lost
    assert set(statuses) == {0}


@pytest.mark.parametrize("whom", ["the service", "make"])
def test_make_serve_ends_as_well(whom: str) -> None:
    port = free_port()
    # Nothing is installed, and an outer make, which may run this, has said nothing.
    command = ["make", "--no-print-directory", "--old-file=.venv/service-installed", "serve", f"PORT={port}"]
    environment = {"MAKEFLAGS": "", "MAKELEVEL": "", "NORMSERVE_DRAIN_SECONDS": "1"}
    with running(command, f"http://127.0.0.1:{port}/v2/health/ready", **environment) as make:
        address = f"http://127.0.0.1:{port}"
        asked = alone(address, mixed(1))
        (service,) = make.process.children(recursive=True)
        with asking(address, asked, CLIENTS) as tally:
            until(lambda: tally.answered > ENOUGH)
            (make.process if whom == "make" else service).send_signal(signal.SIGTERM)
            status = make.process.wait(60)
        assert not service.is_running()
    assert not tally.wrong()
    # make passes the signal on and waits; that it was told to end is then its own exit status, whatever the service's.
    assert status == (-signal.SIGTERM if whom == "make" else 0)
