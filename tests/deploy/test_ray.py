"""deploy/ray on two nodes: replicas that answer with the same bits, and a node that dies."""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from importlib.util import find_spec

import httpx
import numpy as np
import psutil
import pytest

from bench.asks import Ask, mixed
from bench.clients import Asked, Client, alone, asking
from bench.oip import BINARY, encoded
from tests.deploy.ray_cluster import Nodes, two_nodes
from tests.waiting import until

CLIENTS, ENOUGH = 16, 300

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed"),
    pytest.mark.timeout(400),
]


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
