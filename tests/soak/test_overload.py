"""Five times as many requests as can be computed: the surplus is refused, and all else goes on as before."""

import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.clients import Client
from bench.load import Load
from bench.oip import BINARY, encoded
from bench.overload import STAMP, overloaded
from bench.report import Line

pytestmark = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (Debian's package wrk)")

MODEL, LENGTH = "ln-lstm-charlm", 64  # of which only a small output is asked for: computing is what takes time
DEADLINE_S = 1.0
TIMES = 6  # that is sent for each that can be computed: what waits for its answer makes it a little less
CONNECTIONS = 600  # nearly ten times as many as may wait: nine of ten are between two requests
CAPACITY_CONNECTIONS = 32
PROBE_EVERY_S = 0.02


def load(address: str, rows: int) -> Load:
    ids = np.random.default_rng(0).integers(0, 100, (rows, LENGTH))
    parameters = {"timeout": int(DEADLINE_S * 1e6)}
    body, headers = encoded({"ids": ids}, BINARY, parameters)
    length = int(headers["Inference-Header-Content-Length"])
    header = body[:length].replace(b"{", b'{"id": "%b", "outputs": [{"name": "final_h"}], ' % STAMP, 1)
    headers = headers | {"Inference-Header-Content-Length": str(len(header))}
    return Load(f"{address}/v2/models/{MODEL}/infer", header + body[length:], headers)


def probing(address: str, ends: threading.Event, took: list[float]) -> None:
    """How long /v2/health/live takes, again and again."""
    client = Client(address)
    while not ends.wait(PROBE_EVERY_S):
        started = time.perf_counter()
        assert client.get("/v2/health/live")[0] == 200
        took.append(time.perf_counter() - started)
    client.close()


# What is refused costs the same, what is computed four times as much: there is less to refuse.
@pytest.mark.parametrize(("rows", "queue"), [(8, 64), (32, 32)])
def test_five_times_the_capacity(server: Any, full: bool, record: Callable[..., None], rows: int, queue: int) -> None:
    seconds, measured = (60.0, 10.0) if full else (6.0, 2.0)
    with server(max_queue_size=str(queue)) as (_, address):
        sent = load(address, rows)
        before = overloaded(sent, connections=CAPACITY_CONNECTIONS, seconds=measured).good_per_second
        pause = (CONNECTIONS - queue) / (TIMES * before)
        ends, took = threading.Event(), list[float]()
        probe = threading.Thread(target=probing, args=(address, ends, took))
        probe.start()
        found = overloaded(sent, connections=CONNECTIONS, seconds=seconds, pause_s=pause)
        ends.set()
        probe.join()
        after = overloaded(sent, connections=CAPACITY_CONNECTIONS, seconds=measured).good_per_second
    capacity = (before + after) / 2
    what = f"overload, {rows} rows a request"
    counted = ", ".join(f"{status}: {count}" for status, count in sorted(found.statuses.items()))
    others = sum(count for status, count in found.statuses.items() if status not in (200, 429, 503, 504))
    offered = f"{found.per_second / capacity:.1f} times what can be computed, {seconds:g} s"
    record(
        Line(f"{what}: answers other than 200, 429, 503, 504", others, f"{offered}; {counted}", 0, False),
        Line(f"{what}: good answers / capacity", found.good_per_second / capacity, f"{capacity:.0f} requests/s", 0.9),
        Line(f"{what}: slowest /v2/health/live", 1e3 * max(took), f"of {len(took)}", 100, False, " ms"),
        Line(f"{what}: p99 of good answers", found.p99_s, f"deadline {DEADLINE_S:g} s", DEADLINE_S, False, " s"),
        Line(f"{what}: answers of other bytes", found.different, f"of {found.statuses[200]}", 0, False),
    )
    assert others == 0, counted
    assert found.statuses[200]
    assert found.statuses[429]
    assert found.different == 0
    assert took
