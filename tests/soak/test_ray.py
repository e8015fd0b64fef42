"""Replicas on Ray, under load: as many as it asks for, and all replaced when the file changes. At full length only."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from bench.asks import mixed
from bench.clients import alone, asking
from bench.report import Line
from tests.deploy.ray_cluster import CONFIG, Nodes, two_nodes
from tests.soak.conftest import FULL
from tests.waiting import until

CLIENTS, ENOUGH = 16, 300
REPOSITORY = "NORMSERVE_MODEL_REPOSITORY: artifacts"
ANOTHER_SETTING = f"{REPOSITORY}\n        NORMSERVE_LOG_FORMAT: json"

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed"),
    pytest.mark.skipif(not FULL, reason="two minutes of two cores; tests/deploy/test_ray.py has a cluster too"),
]


def replicas(nodes: Nodes) -> set[int]:
    return {process.pid for node in (0, 1) for process in nodes.replicas(node)}


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


def test_replicas_follow_the_load_and_the_file_without_a_lost_request(serve: Any, record: Callable[..., None]) -> None:
    with serve() as address:
        asked = alone(address, mixed(2))
    text = CONFIG.read_text()
    with two_nodes() as nodes:
        until(lambda: len(replicas(nodes)) == 2)
        before = replicas(nodes)
        with asking(nodes.addresses[0], asked, CLIENTS, may_refuse=frozenset()) as replaced:
            until(lambda: replaced.answered > ENOUGH)
            nodes.deploy(changed(text, REPOSITORY, ANOTHER_SETTING))
            until(lambda: len(replicas(nodes) - before) == 2 and not replicas(nodes) & before)
            answered = replaced.answered
            until(lambda: replaced.answered > answered + ENOUGH)
        for old, new in (
            ("target_ongoing_requests: 32", "target_ongoing_requests: 4"),
            ("upscale_delay_s: 10", "upscale_delay_s: 1"),
            ("downscale_delay_s: 300", "downscale_delay_s: 5"),
            ("min_replicas: 2", "min_replicas: 1"),
            ("max_replicas: 8", "max_replicas: 3"),
            (REPOSITORY, ANOTHER_SETTING),
        ):
            text = changed(text, old, new)
        nodes.deploy(text)
        until(lambda: len(replicas(nodes)) == 1)
        with asking(nodes.addresses[0], asked, CLIENTS, may_refuse=frozenset()) as scaled:
            until(lambda: len(replicas(nodes)) == 3)
            answered = scaled.answered
            until(lambda: scaled.answered > answered + ENOUGH)
        with asking(nodes.addresses[0], asked, 1, may_refuse=frozenset()) as shrunk:
            until(lambda: len(replicas(nodes)) == 1)
            answered = shrunk.answered
            until(lambda: shrunk.answered > answered + ENOUGH)
    lines = []
    for what, tally in (
        ("a changed file replaces 2 replicas", replaced),
        ("the load makes 3 replicas of 1", scaled),
        ("the load gone, 3 replicas become 1", shrunk),
    ):
        wrong = len(tally.lost) + len(tally.unexpected) + len(tally.different)
        record_of = f"of {tally.answered}; {tally.wrong() or 'the bytes of each compared'}"
        lines.append(Line(f"Ray, {what}: requests lost or wrong", wrong, record_of, 0, False))
    record(*lines)
    assert all(line.reached for line in lines)
