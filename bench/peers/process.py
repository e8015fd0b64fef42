"""A peer as a process with everything it starts: until it serves, and until nothing of it is left."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np

from bench.load import Load
from bench.peers.catalogue import Peer
from bench.peers.environment import BUILT, PeerError, interpreter

START_SECONDS = 90  # Ray takes ten on a quiet machine
STOP_SECONDS = 20
ANSWER_SECONDS = 30


@contextmanager
def serving(peer: Peer, port: int, model: Path) -> Iterator[None]:
    """Serves the model in a folder ``<name>/<version>`` while the block runs. Raises PeerError when it does not start.

    Its home and its temporary files lie in one folder that goes with it: BentoML and Ray write into the home otherwise.
    """
    log = BUILT / peer.key / "log.txt"
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as scratch, log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            peer.command(interpreter(peer), port, model),
            env=os.environ | _environment(peer, scratch),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_ready(process, peer.ready_url(port, model), log)
            yield
        finally:
            _stop(process, scratch)


def ask(peer: Peer, load: Load) -> np.ndarray:
    """Its answer to one request. Raises PeerError when it refuses."""
    try:
        with urlopen(Request(load.url, load.body, load.headers), timeout=ANSWER_SECONDS) as answer:  # noqa: S310
            return peer.answer(answer.read(), answer.headers)
    except HTTPError as error:
        raise PeerError(f"{load.url} answered {error.code}: {error.read()[:300]!r}") from error


def _environment(peer: Peer, scratch: str) -> dict[str, str]:
    own = {name: value.format(scratch=scratch) for name, value in peer.environment.items()}
    return own | {"HOME": scratch, "TMPDIR": scratch}


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urlopen(url, timeout=5) as answer:  # noqa: S310  # our own address
                if answer.status == 200:
                    return
        except OSError:  # not listening yet, or not ready
            time.sleep(0.1)
    ended = "is not ready" if process.poll() is None else f"ended with {process.returncode}"
    raise PeerError(f"{ended}: ... {log.read_text(errors='replace').strip()[-500:]} (all of it: {log})")


def _stop(process: "subprocess.Popen[bytes]", scratch: str) -> None:
    """Ask, wait, then kill whatever is left of it."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    while left := _running(process.pid, f"TMPDIR={scratch}\0".encode()):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(0.05)


def _running(session: int, mark: bytes) -> set[int]:
    """Processes of this session or with this in their environment.

    BentoML's and Ray's workers lose their parent, BentoML's leave the session, and Ray's write over their environment.
    """
    found = set()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # ended meanwhile, or not ours
            pid, content = int(environ.parent.name), environ.read_bytes()
            # Nothing in it: it has ended, and its parent has not asked how.
            if content and (mark in content or os.getsid(pid) == session):
                found.add(pid)
    return found
