"""500 clients that send a byte a second, half of them their headers and half their bodies: the others do not notice."""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from bench.load import Load, answer_to, loaded
from bench.oip import BINARY, encoded
from bench.report import Line

pytestmark = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (Debian's package wrk)")

SLOW, OTHERS = 500, 8
BODY = b"POST /v2/models/ln-mlp-digits/infer HTTP/1.1\r\nHost: slow\r\nContent-Length: 4096\r\n\r\n"
HEADERS = BODY[:-2] + b"X-Padding: " + b"x" * 4096


class Slow:
    """One of them; when the server has had enough, it comes again."""

    def __init__(self, host: tuple[str, int], *, sends_headers: bool) -> None:
        self._host = host
        self._text, self._at_once = (HEADERS, 1) if sends_headers else (BODY + b" " * 4096, len(BODY))
        self.times = 0
        self.connect()

    def connect(self) -> None:
        self.times += 1
        self._socket = socket.create_connection(self._host, timeout=20)
        self._socket.sendall(self._text[: self._at_once])
        self._sent = self._at_once

    def send(self) -> None:
        try:
            self._socket.sendall(self._text[self._sent : self._sent + 1])
            self._sent += 1
        except OSError:
            self.close()
            self.connect()

    def close(self) -> None:
        self._socket.close()


@contextmanager
def slow_clients(address: str) -> Iterator[list[Slow]]:
    parts = urlsplit(address)
    host = (str(parts.hostname), int(parts.port or 80))
    clients = [Slow(host, sends_headers=bool(number % 2)) for number in range(SLOW)]
    ends = threading.Event()

    def send() -> None:
        while not ends.wait(1):
            for client in clients:
                client.send()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield clients
    finally:
        ends.set()
        thread.join()
        for client in clients:
            with suppress(OSError):
                client.close()


def test_slow_clients_do_not_slow_the_others(server: Any, full: bool, record: Callable[..., None]) -> None:
    rounds, seconds = (9, 10) if full else (2, 1)
    ratios, came = list[float](), 0
    row = {"x": np.random.default_rng(0).random((1, 64), dtype=np.float32)}
    with server() as (_, address):
        sent = Load(f"{address}/v2/models/ln-mlp-digits/infer", *encoded(row, BINARY, {}))
        expected, _ = answer_to(sent)
        for _ in range(rounds):
            without = loaded(sent, connections=OTHERS, seconds=seconds, expected=expected).p99_s
            with slow_clients(address) as slow:
                among = loaded(sent, connections=OTHERS, seconds=seconds, expected=expected).p99_s
            came += sum(client.times for client in slow)
            ratios.append(among / without)
        assert answer_to(sent)[0] == expected
    spread = f"{rounds} rounds of {seconds} s each way, {min(ratios):.2f} to {max(ratios):.2f}"
    record(
        Line(f"{SLOW} slow clients: p99 of others / without them", float(np.median(ratios)), spread, 1.5, False),
        Line(f"{SLOW} slow clients: answers to others of other bytes", 0, "each was compared", 0, False),
    )
    assert came >= rounds * SLOW
