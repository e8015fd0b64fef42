"""Waiting for what another thread or process is to do."""

import subprocess
from collections.abc import Callable
from time import monotonic, sleep

PATIENCE_S = 120


def until(holds: Callable[[], bool], what: str = "what is waited for") -> None:
    """Raises AssertionError when it does not come to hold."""
    deadline = monotonic() + PATIENCE_S
    while not holds():
        assert monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        sleep(0.01)


def ended(running: subprocess.Popen[str]) -> list[str]:
    """The lines of a service's log, once it was told to end and has."""
    running.terminate()
    assert running.stderr
    lines = list(running.stderr)
    assert running.wait(30) == 0
    return lines
