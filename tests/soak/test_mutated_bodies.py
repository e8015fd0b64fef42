"""Bodies broken in every way over the socket: no 5xx, the process lives, and it answers rightly afterwards."""

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

from bench.asks import Ask, mixed
from bench.clients import Client, alone
from bench.mutations import mutated
from bench.report import Line

CLIENTS = 4
DOCUMENTED = {200, 400, 404, 413, 415, 429}


def test_mutated_bodies_are_refused_or_answered_rightly(server: Any, full: bool, record: Callable[..., None]) -> None:
    count = 100_000 if full else 4_000
    sound = [ask for ask in mixed(5) if ask.status == 200]
    statuses, kept, wrong = Counter[int](), list[tuple[Ask, bytes]](), list[str]()

    def send(numbers: range) -> None:
        client = Client(address)
        for number in numbers:
            ask = mutated(sound[number % len(sound)], number)
            try:
                status, body = client.post(ask)
            except (OSError, HTTPException) as error:
                status, body = 0, repr(error).encode()
            statuses[status] += 1
            if status == 200:
                kept.append((ask, body))
            elif status not in DOCUMENTED or list(json.loads(body)) != ["error"]:
                wrong.append(f"{number}: {ask.what}: {status} {body[:200]!r}; body {ask.body[:300]!r}, {ask.headers}")
        client.close()

    with server() as (started, address):
        before = alone(address, sound)
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(send, [range(first, count, CLIENTS) for first in range(CLIENTS)]))
        assert started.process.is_running()
        assert [each.alone for each in alone(address, sound)] == [each.alone for each in before]
        client = Client(address)
        different = [ask.what for ask, body in kept if client.post(ask) != (200, body)]
        client.close()
        said = started.said()
    counted = ", ".join(f"{status}: {times}" for status, times in sorted(statuses.items()))
    record(
        Line(f"{count} mutated bodies: 5xx, no answer, or no {{error}}", len(wrong), counted, 0, False),
        Line("mutated bodies: answers of other bytes than alone", len(different), f"of {len(kept)}", 0, False),
    )
    assert not wrong, wrong[:5]
    assert not different, different[:5]
    assert "Traceback" not in said
    assert statuses[400] > count / 2
    assert statuses[200]
