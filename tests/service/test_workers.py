"""The parent of several workers, over workers that only say what becomes of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket

import pytest

from service import workers
from service.settings import Settings
from service.tallies import Tallies
from service.workers import ENDINGS, Workers

ROOT = Path(__file__).parents[2]


def say(*words: object) -> None:
    line = " ".join(map(str, (*words, os.getpid())))
    os.write(1, f"{line}\n".encode())  # at once: print may write word by word, and the others write as well


def serving(_settings: Settings, tallies: Tallies, listening: socket) -> None:
    """Says how many have had its number, and when it is told to end."""
    for number in ENDINGS.values():
        signal.signal(number, lambda number, _: sys.exit(say("told", signal.Signals(number).name)))
    starts = tallies.numbers(("starts",), 1)
    starts[0] += 1
    tallies.serve()
    say("serving", listening.getsockname()[1], int(starts[0]))
    signal.pause()


def stubborn(_settings: Settings, tallies: Tallies, listening: socket) -> None:
    signal.signal(signal.SIGTERM, lambda *_: say("told"))
    tallies.serve()
    say("serving")
    while True:
        signal.pause()


def loading(_settings: Settings, tallies: Tallies, listening: socket) -> None:
    signal.signal(signal.SIGTERM, lambda *_: say("told"))
    say("loading")
    while True:
        signal.pause()


def failing(_settings: Settings, tallies: Tallies, listening: socket) -> None:
    sys.exit(3)


def dying(_settings: Settings, tallies: Tallies, listening: socket) -> None:
    tallies.serve()
    say("serving")
    os.kill(os.getpid(), signal.SIGKILL)


def parent(serve: Callable[[Settings, Tallies, socket], None], count: int, shortest_wait_s: float) -> int:
    """What is run as a process."""
    workers.SHORTEST_WAIT_S = shortest_wait_s
    listening = socket()
    listening.bind(("127.0.0.1", 0))
    settings = Settings(workers=count, model_repository=ROOT / "artifacts")
    return Workers(settings, serve).run(listening)


@contextmanager
def run(serve: Callable[..., None], count: int = 2, wait_s: float = 0) -> Iterator[subprocess.Popen[str]]:
    code = f"import sys; from {__name__} import *; sys.exit(parent({serve.__name__}, {count}, {wait_s}))"
    running = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with running:
        try:
            yield running
        finally:
            running.kill()


def said(running: subprocess.Popen[str], lines: int) -> list[list[str]]:
    """The next words, each line by one worker; its process last."""
    assert running.stdout
    return [running.stdout.readline().split() for _ in range(lines)]


def rest(running: subprocess.Popen[str]) -> list[list[str]]:
    """What is said until the last process has ended: each of them keeps the pipe open."""
    assert running.stdout
    return [line.split() for line in running.stdout]


@pytest.mark.parametrize("number", ENDINGS)
def test_the_first_signal_ends_all_in_order_with_exit_0(number: signal.Signals) -> None:
    with run(serving, 3) as running:
        serve = said(running, 3)
        assert len({port for _, port, _, _ in serve}) == 1
        running.send_signal(number)
        assert sorted(rest(running)) == sorted(["told", ENDINGS[number].name, process] for *_, process in serve)
        assert running.wait() == 0


def test_ctrl_c_which_every_process_of_a_terminal_gets_tells_each_worker_once() -> None:
    with run(serving) as running:
        serve = said(running, 2)
        for process in [*(int(process) for *_, process in serve), running.pid]:
            os.kill(process, signal.SIGINT)
        assert sorted(rest(running)) == sorted(["told", "SIGUSR1", process] for *_, process in serve)
        assert running.wait() == 0


def test_one_that_is_killed_is_replaced_and_the_next_has_its_numbers() -> None:
    with run(serving) as running:
        (_, port, first, killed), (*_, other) = said(running, 2)
        os.kill(int(killed), signal.SIGKILL)
        ((_, same_port, second, replacement),) = said(running, 1)
        assert (same_port, first, second) == (port, "1", "2")
        running.send_signal(signal.SIGTERM)
        assert sorted(rest(running)) == sorted([["told", "SIGTERM", each] for each in (other, replacement)])


def test_one_that_dies_again_and_again_is_waited_for_longer_each_time() -> None:
    with run(dying, 1, 0.01) as running:
        said(running, 4)
        running.send_signal(signal.SIGTERM)
        rest(running)
        assert running.stderr
        log = running.stderr.read()
    assert [f"worker 0 ended with -9; another begins in {wait} s" in log for wait in (0.01, 0.02, 0.04)] == [True] * 3


def test_a_second_signal_ends_at_once_those_that_have_not_ended() -> None:
    with run(stubborn) as running:
        serve = said(running, 2)
        running.send_signal(signal.SIGTERM)
        assert sorted(said(running, 2)) == sorted(["told", process] for _, process in serve)
        assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        assert rest(running) == []
        assert running.wait() == 128 + signal.SIGTERM


def test_those_that_still_load_have_nothing_to_end_in_order() -> None:
    with run(loading) as running:
        said(running, 2)
        running.send_signal(signal.SIGTERM)
        assert rest(running) == []
        assert running.wait() == 0


def test_when_the_first_fail_at_start_their_exit_code_is_the_answer() -> None:
    with run(failing) as running:
        assert running.wait() == 3
        assert rest(running) == []


def test_workers_end_with_a_parent_that_is_killed() -> None:
    with run(serving) as running:
        serve = said(running, 2)
        running.kill()
        assert sorted(rest(running)) == sorted(["told", "SIGTERM", process] for *_, process in serve)
