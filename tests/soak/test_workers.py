"""kill -9 of one of four workers under load: the others serve on, it is replaced, its own requests alone are lost."""

from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest

from bench.asks import mixed
from bench.clients import alone, asking
from bench.report import Line
from service.settings import Settings
from tests.waiting import until

pytestmark = pytest.mark.skipif("workers" not in Settings.model_fields, reason="there is no setting WORKERS yet")

WORKERS, CLIENTS, ENOUGH = 4, 32, 500


def test_a_killed_worker_costs_its_own_requests_alone(server: Any, full: bool, record: Callable[..., None]) -> None:
    times = 5 if full else 1  # one that dies young is replaced after a wait, which doubles
    with server(workers=str(WORKERS)) as (started, address):
        asked = alone(address, mixed(3))

        def workers() -> set[int]:
            return {child.pid for child in started.process.children() if child.is_running() and _serves(child)}

        until(lambda: len(workers()) == WORKERS)
        connections = 0
        with asking(address, asked, CLIENTS) as tally:
            for killed in range(times):
                until(lambda killed=killed: tally.answered > ENOUGH * (killed + 1))
                before = workers()
                victim = next(child for child in started.process.children() if child.pid in before)
                victim.suspend()
                connections += sum(each.status == psutil.CONN_ESTABLISHED for each in victim.net_connections("tcp"))
                victim.kill()
                until(lambda before=before: len(workers()) == WORKERS and workers() != before)
                answered = tally.answered
                until(lambda answered=answered: tally.answered > answered + ENOUGH)
        assert httpx.get(f"{address}/v2/health/ready").status_code == 200
    of = f"{times} times; each connection to a killed worker may lose one"
    record(
        Line("kill -9 of one of 4 workers: requests lost", len(tally.lost), of, connections, False),
        Line("kill -9 of one of 4 workers: wrong answers", len(tally.unexpected), f"of {tally.answered}", 0, False),
        Line("kill -9 of one of 4 workers: answers of other bytes", len(tally.different), "each compared", 0, False),
    )
    assert len(tally.lost) <= connections
    assert not tally.unexpected
    assert not tally.different


def _serves(child: Any) -> bool:
    """multiprocessing has helpers of its own beside the workers."""
    try:
        return "resource_tracker" not in " ".join(child.cmdline())
    except psutil.NoSuchProcess:  # or a zombie: it was killed a moment ago
        return False
