"""Containers come and go, and nobody's request is lost."""

import re
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from threading import Event

import httpx
import numpy as np
import pytest

from bench.oip import BINARY, encoded
from tests.container.engine import Project, address_of, docker, inspected, removed
from tests.container.test_image import MODEL
from tests.waiting import until

pytestmark = pytest.mark.timeout(600)

CLIENTS = 8
X = {"x": np.random.default_rng(0).random((4, 64), dtype="f4")}


def answered(address: str) -> int:
    """Good answers of this container so far."""
    metrics = httpx.get(f"{address}/metrics").text
    counts = re.findall(r'^normserve_requests_total\{.*outcome="success".*\} (\S+)$', metrics, re.MULTILINE)
    return int(sum(map(float, counts)))


def ask_until_told_to_go(address: str, told: Event) -> tuple[int, set[bytes]]:
    """How many answers there were on one connection until one said that it was the last, and which different ones."""
    body, headers = encoded(X, BINARY, {})
    connection = HTTPConnection(address.removeprefix("http://"), timeout=60)
    answers, bodies = 0, set()
    while True:
        connection.request("POST", f"/v2/models/{MODEL}/infer", body, headers)
        answer = connection.getresponse()
        assert answer.status == 200
        bodies.add(answer.read())
        answers += 1
        if answer.getheader("Connection") == "close":
            assert told.is_set()
            return answers, bodies


@pytest.mark.parametrize("workers", [1, 2])
def test_docker_stop_under_load_loses_no_request(project: Project, workers: int) -> None:
    project.set(NORMSERVE_WORKERS=str(workers), NORMSERVE_DRAIN_SECONDS="1")
    project("up", "--wait")
    (container,) = project.containers("normserve")
    address, told = address_of(container), Event()
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(ask_until_told_to_go, address, told) for _ in range(CLIENTS)]
        until(lambda: answered(address) > 20 * CLIENTS, "clients are served")
        told.set()
        docker("stop", container)
        ended = [client.result() for client in clients]
    assert min(answers for answers, _ in ended) > 1
    assert len(set.union(*(bodies for _, bodies in ended))) == 1
    state = inspected(container)
    assert (state["State"]["ExitCode"], state["State"]["OOMKilled"]) == (0, False)
    assert state["Config"]["StopTimeout"] == 45


def test_a_container_is_replaced_under_load_and_no_request_is_lost(project: Project) -> None:
    """For clients that ask for the service by its name: it leads to every container, old and new, that listens."""
    project("--profile", "load", "build", "load")
    project("up", "--wait")
    (old,) = project.containers("normserve")
    name = f"{project.name}-load"
    # At a rate: as fast as answers come, it would leave the new container no processor to start on.
    asking = ["--host=http://normserve:8000", f"--model={MODEL}", "--users=8", "--rate=100", "--run-time=600"]
    load = project.start("run", "--rm", "--no-TTY", "--no-deps", "--name", name, "load", *asking)
    try:
        until(lambda: answered(address_of(old)) > 100 or load.poll() is not None, "the load has begun")
        project("up", "--wait", "--no-recreate", "--scale", "normserve=2")
        (new,) = (each for each in project.containers("normserve") if each != old)
        docker("stop", old)
        assert inspected(old)["State"]["ExitCode"] == 0
        until(lambda: answered(address_of(new)) > 100 or load.poll() is not None, "the new one serves")
        docker("kill", "--signal=INT", name)  # Ctrl-C: it says what it found
        load.wait(60)
    finally:
        removed(name)
        said, _ = load.communicate(timeout=60)
    assert load.returncode == 0, said
    assert re.search(r"^failures +0$", said, re.MULTILINE), said
