"""deploy/ray on a cluster of two nodes, which are processes of this machine: the real commands, the real service."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from bench.asks import Ask, mixed
from bench.clients import Asked, Client, alone, asking
from bench.oip import BINARY, encoded
from bench.ray_nodes import ON_LOOPBACK
from bench.servers import free_port
from tests.waiting import PATIENCE_S, until

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy" / "ray" / "serve.yaml"
CLIENTS, ENOUGH = 16, 300
REPLICA = "ray::ServeReplica:normserve"

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed"),
    pytest.mark.timeout(400),
]


@dataclass(frozen=True)
class Nodes:
    """The head first; each has a proxy and a replica of its own."""

    raylets: tuple[psutil.Process, ...]
    addresses: tuple[str, ...]

    def processes(self, node: int) -> list[psutil.Process]:
        try:
            return [self.raylets[node], *self.raylets[node].children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def replicas(self, node: int) -> list[psutil.Process]:
        found = []
        for process in self.processes(node):
            with suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).startswith(REPLICA):
                    found.append(process)
        return found


def is_ready(address: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{address}/v2/health/ready").status_code == 200
    return False


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """serve.yaml deployed on them, on ports of the test's own."""
    ports = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        config = Path(scratch) / "serve.yaml"
        config.write_text(CONFIG.read_text().replace("port: 8000", f"port: {ports[0]}"))
        environment = (
            os.environ
            | ON_LOOPBACK
            | {
                "HOME": scratch,
                "TMPDIR": scratch,
                "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",  # or the head would ask its own replica alone
                "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(ports[1]),  # on two machines both would be the same
            }
        )
        python, log = Path(sys.executable), (Path(scratch) / "log").open("w+")
        started = subprocess.Popen(
            [python, "-m", "bench.ray_nodes"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        family: list[psutil.Process] = []
        try:
            assert started.stdout is not None
            said = json.loads(next((line for line in started.stdout if line.startswith("{")), "null"))
            assert said, Path(log.name).read_text()
            serve = [python.parent / "serve", "run", "--non-blocking", "--address", said["address"], config]
            done = subprocess.run(serve, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
            assert done.returncode == 0, done.stderr
            nodes = Nodes(
                tuple(map(psutil.Process, said["raylets"])), tuple(f"http://127.0.0.1:{port}" for port in ports)
            )
            until(lambda: all(map(is_ready, nodes.addresses)))
            yield nodes
        finally:
            family = psutil.Process(started.pid).children(recursive=True)
            started.kill()
            started.communicate()
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, PATIENCE_S)
            log.close()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with two_nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def asked(serve: Callable[..., object]) -> list[Asked]:
    """Requests of every kind, one that is answered in pieces, and what the service by itself answers."""
    x = np.random.default_rng(0).standard_normal((512, 1024)).astype("f4")
    large = Ask("2 MiB", "/v2/models/layer_norm/infer", *encoded({"x": x}, BINARY, {}))
    with serve() as address:
        return alone(address, [*mixed(2), large])


def requests_counted(address: str) -> int:
    """By the replica that happens to answer: each counts for itself."""
    models = httpx.get(f"{address}/v2/models/stats").json()["model_stats"]
    return sum(int(model["inference_stats"]["success"]["count"]) for model in models)


def test_each_node_has_a_replica_and_all_answer_with_the_bits_of_the_service_alone(
    nodes: Nodes, asked: list[Asked]
) -> None:
    until(lambda: [len(nodes.replicas(node)) for node in (0, 1)] == [1, 1])
    total = 0
    for address in nodes.addresses:
        with closing(Client(address)) as client:
            for each in asked:
                assert client.post(each.ask) == (each.ask.status, each.alone), each.ask.what
                total += each.ask.status == 200
            if total % 2 == 0:  # both must not have counted the same, or they would be taken for one
                total += client.post(asked[0].ask)[0] == 200
    counts = set[int]()

    def both_have_said() -> bool:
        counts.add(requests_counted(nodes.addresses[0]))
        return len(counts) == 2

    until(both_have_said)
    assert min(counts) > 0
    assert sum(counts) == total


def test_nothing_of_the_cluster_listens_beyond_this_machine(nodes: Nodes) -> None:
    until(lambda: [len(nodes.replicas(node)) for node in (0, 1)] == [1, 1])
    listening = set[str]()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found = process.net_connections("tcp")
            listening |= {each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1", "::ffff:127.0.0.1"}


def test_a_killed_node_costs_the_requests_that_it_had_and_its_replica_is_replaced(
    nodes: Nodes, asked: list[Asked]
) -> None:
    until(lambda: [len(nodes.replicas(node)) for node in (0, 1)] == [1, 1])
    with asking(nodes.addresses[0], asked, CLIENTS, may_refuse=frozenset()) as tally:
        until(lambda: tally.answered > ENOUGH)
        for process in nodes.processes(1):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        answered = tally.answered
        until(lambda: tally.answered > answered + ENOUGH)
        until(lambda: len(nodes.replicas(0)) == 2)
    print(f"{tally.answered} answered, {tally.wrong()}")
    assert not tally.lost  # the proxy that they asked lives
    assert len(tally.unexpected) <= CLIENTS  # each had one on its way at most
    assert all(": 500 " in each for each in tally.unexpected)
    assert not tally.different
