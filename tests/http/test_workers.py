"""Several workers on one port: what they count together, and what becomes of requests when one is killed."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Event, Thread

import httpx
import orjson
import psutil
import pytest

from service.openapi import DIGIT
from tests.waiting import until

ROOT = Path(__file__).parents[2]
MODEL = "ln-mlp-digits"
INFER = f"/v2/models/{MODEL}/infer"
BODY = orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]})
Process = Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]


def children(parent: int) -> list[psutil.Process]:
    """The workers, without what multiprocessing runs beside them."""
    return [child for child in psutil.Process(parent).children() if "--multiprocessing-fork" in child.cmdline()]


def metric(address: str, name: str) -> float:
    found = re.search(rf"^normserve_{re.escape(name)} (\S+)$", httpx.get(f"{address}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def all_serving(parent: int, address: str, count: int) -> list[psutil.Process]:
    until(lambda: metric(address, "workers") == count)
    workers = children(parent)
    assert len(workers) == count
    return workers


@contextmanager
def alone(worker: psutil.Process, workers: list[psutil.Process]) -> Iterator[None]:
    """The others are held: it alone takes connections."""
    others = [each for each in workers if each != worker]
    for each in others:
        each.suspend()
    try:
        until(lambda: all(each.status() == psutil.STATUS_STOPPED for each in others))
        yield
    finally:
        for each in others:
            each.resume()


SUCCESSES = f'requests_total{{model="{MODEL}",outcome="success",version="1"}}'


def test_statistics_and_metrics_are_totals_whichever_worker_answers(process: Process, covered: dict[str, str]) -> None:
    with process("--workers", "3", environment=covered) as (running, address):
        workers = all_serving(running.pid, address, 3)
        for number, worker in enumerate(workers):
            with alone(worker, workers):
                for _ in range(1 + number):
                    assert httpx.post(f"{address}{INFER}", content=BODY).status_code == 200
        for worker in workers:
            with alone(worker, workers):
                assert metric(address, SUCCESSES) == 6
                assert metric(address, f'batch_rows_sum{{model="{MODEL}",version="1"}}') == 6
                assert metric(address, f'pending_requests{{model="{MODEL}",version="1"}}') == 0
                assert metric(address, f'model_ready{{model="{MODEL}",version="1"}}') == 1
                (stats,) = httpx.get(f"{address}/v2/models/{MODEL}/stats").json()["model_stats"]
                assert (stats["inference_count"], stats["inference_stats"]["success"]["count"]) == (6, 6)
                assert stats["batch_stats"][0]["compute_infer"]["count"] == 6


class Client(Thread):
    """Asks again and again over one connection; over another when that ends; until none is to be had."""

    def __init__(self, address: str, ends: Event) -> None:
        super().__init__()
        self._address, self._ends = address.removeprefix("http://"), ends
        self.port = 0
        self.broken: list[int] = []
        self.statuses: list[int] = []

    def run(self) -> None:
        while not self._ends.is_set():
            connection = HTTPConnection(self._address, timeout=30)
            try:
                connection.connect()
            except ConnectionRefusedError:
                return
            self.port = connection.sock.getsockname()[1]
            try:
                while connection.sock and not self._ends.is_set():
                    connection.request("POST", INFER, BODY)
                    answer = connection.getresponse()
                    answer.read()
                    self.statuses.append(answer.status)
            except (OSError, HTTPException):
                self.broken.append(self.port)
            finally:
                connection.close()


def test_when_one_of_four_is_killed_the_others_serve_on_and_it_is_replaced(
    process: Process, covered: dict[str, str]
) -> None:
    with process("--workers", "4", environment=covered) as (running, address):
        workers = all_serving(running.pid, address, 4)
        ends = Event()
        clients = [Client(address, ends) for _ in range(16)]
        for client in clients:
            client.start()
        try:
            until(lambda: all(len(client.statuses) > 5 for client in clients))
            killed = max(workers, key=lambda worker: len(worker.net_connections()))
            peers = {connection.raddr.port for connection in killed.net_connections() if connection.raddr}
            assert peers & {client.port for client in clients}
            before = metric(address, SUCCESSES)
            killed.kill()

            totals = [before]
            until(lambda: totals.append(metric(address, SUCCESSES)) or metric(address, "workers") == 3)
            answered = [len(client.statuses) for client in clients]
            until(lambda: totals.append(metric(address, SUCCESSES)) or metric(address, "workers") == 4)
            assert all(len(client.statuses) > before for client, before in zip(clients, answered, strict=True))
        finally:
            ends.set()
            for client in clients:
                client.join(60)
        broken = [port for client in clients for port in client.broken]
        assert set(broken) <= peers
        assert len(broken) == len(set(broken))
        assert {status for client in clients for status in client.statuses} == {200}
        assert totals == sorted(totals)
        # The one killed may have counted an answer that it did not get to send.
        until(lambda: metric(address, SUCCESSES) >= sum(len(client.statuses) for client in clients))
        assert metric(address, SUCCESSES) <= sum(len(client.statuses) for client in clients) + len(broken)

        now = children(running.pid)
        assert len(now) == 4
        (replacement,) = set(now) - set(workers)
        with alone(replacement, now):
            assert httpx.post(f"{address}{INFER}", content=BODY).status_code == 200


def test_told_to_stop_under_load_they_break_no_connection(process: Process, covered: dict[str, str]) -> None:
    flags = ("--workers", "2", "--drain-seconds", "0.5")
    with process(*flags, environment=covered) as (running, address):
        all_serving(running.pid, address, 2)
        clients = [Client(address, Event()) for _ in range(8)]
        for client in clients:
            client.start()
        until(lambda: all(client.statuses for client in clients))
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
        for client in clients:
            client.join(60)
    assert [client.broken for client in clients] == [[]] * len(clients)
    assert {status for client in clients for status in client.statuses} == {200}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_of_them_and_what_is_in_flight_is_answered(
    process: Process, covered: dict[str, str], number: signal.Signals
) -> None:
    flags = ("--workers", "2", "--max-queue-delay-ms", "1000", "--drain-seconds", "1")
    with process(*flags, environment=covered) as (running, address):
        workers = all_serving(running.pid, address, 2)
        answers: list[int] = []
        asking = [
            Thread(target=lambda: answers.append(httpx.post(f"{address}{INFER}", content=BODY, timeout=30).status_code))
            for _ in range(4)
        ]
        for each in asking:
            each.start()
        until(lambda: metric(address, f'pending_requests{{model="{MODEL}",version="1"}}') == 4)
        for process_id in (running.pid, *(worker.pid for worker in workers)):
            os.kill(process_id, number)  # as a terminal does, or a service manager
        for each in asking:
            each.join(30)
        assert running.wait(60) == 0
        assert running.stderr
        log = running.stderr.read()  # until all that could write to it have ended
        assert not any(worker.is_running() for worker in workers)
    assert answers == [200] * 4
    assert "Traceback" not in log
    assert "ERROR" not in log


def test_a_setting_that_cannot_be_had_is_said_once_with_exit_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "--workers", "3", "--precision", "bf16"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("NORMSERVE_")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.count("--precision (NORMSERVE_PRECISION) is 'bf16'") == 1
    assert len(done.stderr.splitlines()) == 1
