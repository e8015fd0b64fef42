"""Clients that compare each answer, byte for byte, with the one that was given when nobody else asked."""

import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from bench.asks import Ask

ANSWER_WITHIN_S = 60
REFUSED = frozenset({429, 503, 504})  # what an overloaded or a stopping server may say in place of an answer


@dataclass(frozen=True)
class Asked:
    """A request and the body of the answer to it alone."""

    ask: Ask
    alone: bytes


@dataclass
class Tally:
    """What clients were answered.

    lost: requests that were sent and not answered. unexpected: answers of a status that is not the request's.
    different: answers of the right status with other bytes.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def answered(self) -> int:
        """How many answers there were."""
        return self.statuses.total()

    def wrong(self) -> dict[str, list[str]]:
        """Everything that should not be, by kind; a few of each."""
        kinds = {"lost": self.lost, "unexpected": self.unexpected, "different": self.different}
        return {kind: found[:5] for kind, found in kinds.items() if found}

    def add(self, asked: Asked, status: int, body: bytes, may_refuse: frozenset[int]) -> None:
        """One answer."""
        with self._lock:
            self.statuses[status] += 1
            if status == asked.ask.status:
                if body != asked.alone:
                    self.different.append(asked.ask.what)
            elif status not in may_refuse:
                self.unexpected.append(f"{asked.ask.what}: {status} {body[:200]!r}")

    def add_lost(self, what: str) -> None:
        """One request without an answer."""
        with self._lock:
            self.lost.append(what)


class Client:
    """One connection, kept for as long as the server keeps it, and then opened again."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._connection = HTTPConnection(str(parts.hostname), parts.port, timeout=ANSWER_WITHIN_S)

    @property
    def is_connected(self) -> bool:
        """Whether the next request goes over a connection that is already there."""
        return self._connection.sock is not None

    def post(self, ask: Ask) -> tuple[int, bytes]:
        """Status and body. Raises ConnectionRefusedError where nobody listens, OSError and HTTPException."""
        try:
            self._connection.request("POST", ask.path, ask.body, ask.headers)
            answer = self._connection.getresponse()  # closes the connection when the answer says so
            return answer.status, answer.read()
        except (OSError, HTTPException):
            self._connection.close()
            raise

    def get(self, path: str) -> tuple[int, bytes]:
        """The same of a path."""
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        """The connection."""
        self._connection.close()


def alone(address: str, asks: Sequence[Ask]) -> list[Asked]:
    """Ask one after the other; nobody else may ask. Raises RuntimeError when a status is not the request's."""
    client, found = Client(address), []
    for ask in asks:
        status, body = client.post(ask)
        if status != ask.status:
            raise RuntimeError(f"{ask.what}: {status} and not {ask.status}: {body[:300]!r}")
        found.append(Asked(ask, body))
    client.close()
    return found


@contextmanager
def asking(
    address: str, asked: Sequence[Asked], clients: int, *, may_refuse: frozenset[int] = REFUSED, seed: int = 0
) -> Iterator[Tally]:
    """So many clients ask, each the next request as soon as it has its answer, until the block ends.

    A client that is refused a connection asks no more: the server has ended. may_refuse: statuses that every request
    may be answered with.
    """
    tally, ends = Tally(), threading.Event()

    def ask_on(number: int) -> None:
        rng, client = random.Random(f"{seed} {number}"), Client(address)  # noqa: S311  # an order, not a secret
        while not ends.is_set():
            chosen = rng.choice(asked)
            was = "kept" if client.is_connected else "new"
            try:
                status, body = client.post(chosen.ask)
            except ConnectionRefusedError:
                break
            except (OSError, HTTPException) as error:
                tally.add_lost(f"{chosen.ask.what}, over a {was} connection: {error!r}")
                continue
            tally.add(chosen, status, body, may_refuse)
        client.close()

    threads = [threading.Thread(target=ask_on, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield tally
    finally:
        ends.set()
        for thread in threads:
            thread.join()
