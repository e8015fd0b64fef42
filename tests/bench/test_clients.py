"""What the clients of the trials notice, and that a mutation is the same each time."""

import socket
import threading
from dataclasses import replace

from bench.asks import mixed
from bench.clients import Asked, Client, Tally, alone, asking
from bench.mutations import mutated
from bench.report import Line
from bench.trials import table


def answered(tally: Tally, count: int) -> None:
    """Wait for so many answers."""
    pause = threading.Event()
    while tally.answered + len(tally.lost) < count:
        pause.wait(0.005)


def test_every_request_is_answered_as_it_must_be_alone_and_among_others(address: str) -> None:
    asked = alone(address, mixed(5))
    assert {each.ask.status for each in asked} == {200, 400, 404, 413, 415}
    with asking(address, asked, 4) as tally:
        answered(tally, 200)
    assert not tally.wrong()
    assert set(tally.statuses) <= {200, 400, 404, 413, 415}


def test_other_bytes_and_other_statuses_are_noticed(address: str) -> None:
    good, refused = (
        next(each for each in alone(address, mixed(1)) if each.ask.status == status) for status in (200, 404)
    )
    other = replace(good, alone=good.alone[:-1] + b" ")
    with asking(address, [other], 2) as tally:
        answered(tally, 20)
    assert len(tally.different) == tally.answered
    wrong = Asked(replace(refused.ask, status=200), b"")
    with asking(address, [wrong], 2) as tally:
        answered(tally, 20)
    assert len(tally.unexpected) == tally.answered
    with asking(address, [wrong], 2, may_refuse=frozenset({404})) as tally:
        answered(tally, 20)
    assert not tally.wrong()


def test_a_request_without_an_answer_is_lost_and_a_refused_connection_is_the_end() -> None:
    asked = [Asked(mixed(1)[0], b"")]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def hang_up() -> None:
            for _ in range(3):
                listener.accept()[0].close()
            listener.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with asking(address, asked, 1) as tally:
            answered(tally, 3)
            thread.join()
    assert len(tally.lost) >= 3
    assert "over a new connection" in tally.lost[0]


def test_a_connection_is_kept(address: str) -> None:
    client = Client(address)
    assert not client.is_connected
    assert client.get("/v2/health/live")[0] == 200
    assert client.is_connected
    client.close()


def test_the_same_number_makes_the_same_mutation() -> None:
    ask = mixed(1)[0]
    made = [mutated(ask, number) for number in range(200)]
    assert made == [mutated(ask, number) for number in range(200)]
    assert len({each.body for each in made}) > 150
    assert any(each.headers != ask.headers for each in made)


def test_the_table_says_which_goal_was_missed() -> None:
    rows = table([Line("lost", 0, "20 times", 0, False), Line("p99", 2, "of 9", 1.5, False, " s")])
    assert rows[2:] == ["| lost | 0 | <= 0 | 20 times |", "| p99 | 2 s (missed) | <= 1.5 s | of 9 |"]
