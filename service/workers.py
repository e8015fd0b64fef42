"""Several processes that serve one port, and the one above them, which serves nothing and sees to it that they run.

All listen on the socket that the parent bound, so the kernel hands a connection to a worker that is free, and what it
has not handed out yet survives any worker. They are spawned, not forked: threads and sessions belong to one process.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.context import SpawnProcess
from socket import socket
from threading import Thread
from time import monotonic
from types import FrameType

from service.log import configure_logging
from service.server import Server
from service.settings import Settings
from service.tallies import Tallies, Tally

logger = logging.getLogger(__name__)

# One that died sooner than this is replaced after a wait, which doubles each time: what ends it at once may pass, and
# starting costs the others processor time.
YOUNG_S = 30.0
SHORTEST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0

# What the parent is sent, and sends on. A terminal sends Ctrl-C to every process, and a worker is to be told once.
ENDINGS = {signal.SIGTERM: signal.SIGTERM, signal.SIGINT: signal.SIGUSR1}

Serve = Callable[[Settings, Tallies, socket], None]

_spawn = get_context("spawn")


class Workers:
    """As many processes as the settings say; one that dies is replaced.

    A first SIGTERM or SIGINT ends them in order, each answering what it has; a second one ends them at once.
    """

    def __init__(self, settings: Settings, serve: Serve | None = None) -> None:
        """serve: what a worker does in its process; a function that can be found by its name."""
        self._settings, self._serve = settings, serve or _serve
        self._tallies = [Tally.create() for _ in range(settings.workers)]
        self._processes: dict[int, SpawnProcess] = {}  # by number, those that run
        self._ending = asyncio.Event()
        self._have_served = False
        self._exit_code = 0

    def run(self, listening: socket) -> int:
        """Until told to stop. listening: bound; closed when this returns.

        0, or a worker's exit code when it failed before any had served: the next would fail in the same way.
        """
        resource_tracker.ensure_running()  # which unblocks the signals that _start wants blocked
        asyncio.run(self._keep_all(listening))
        return self._exit_code

    async def _keep_all(self, listening: socket) -> None:
        loop = asyncio.get_running_loop()
        for number in ENDINGS:
            loop.add_signal_handler(number, partial(self._end, number))
        async with asyncio.TaskGroup() as keeping:
            for slot in range(self._settings.workers):
                keeping.create_task(self._keep(slot, listening))
            with listening:
                await self._ending.wait()

    async def _keep(self, number: int, listening: socket) -> None:
        """A worker of this number, and another when it has died, until told to stop."""
        wait_s = 0.0
        while not self._ending.is_set():
            began = monotonic()
            try:
                exit_code = await self._run(number, listening)
            except OSError as error:  # the machine has no process left, or no memory: that may pass
                logger.error("worker %d cannot begin: %s", number, error)  # noqa: TRY400
                exit_code = 0
            if self._ending.is_set():
                return
            if exit_code > 0 and not self._have_served:
                self._exit_code = exit_code
                self._end(signal.SIGTERM)
                return
            wait_s = 0.0 if monotonic() - began > YOUNG_S else min(LONGEST_WAIT_S, max(SHORTEST_WAIT_S, 2 * wait_s))
            logger.error("worker %d ended with %d; another begins in %g s", number, exit_code, wait_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), wait_s)

    async def _run(self, number: int, listening: socket) -> int:
        """One process from its start to its end: its exit code, or the signal that killed it, negative."""
        process = self._processes[number] = self._start(number, listening)
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(process.sentinel, ended.set)
        await ended.wait()
        loop.remove_reader(process.sentinel)
        process.join()
        exit_code = process.exitcode or 0
        process.close()
        del self._processes[number]
        self._have_served |= any(tally.serves for tally in self._tallies)
        self._tallies[number].serves = False
        return exit_code

    def _start(self, number: int, listening: socket) -> SpawnProcess:
        process = _spawn.Process(
            target=_work, args=(self._serve, self._settings, self._tallies, number, listening), daemon=True
        )
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # and so it is in the worker
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return process

    def _end(self, told: signal.Signals) -> None:
        if self._ending.is_set():
            self._exit_code = 128 + told  # as of a process that the signal has ended
        for number, process in self._processes.items():
            # While it loads it has nothing to answer.
            is_at_once = self._ending.is_set() or not self._tallies[number].serves
            if process.is_alive() and process.pid:
                os.kill(process.pid, signal.SIGKILL if is_at_once else ENDINGS[told])
        self._ending.set()


class _Worker(Server):
    """Told once is enough: service managers signal every process of a service, and the parent passes it on as well."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The parent ends at once who does not."""
        for number in ENDINGS.values():
            signal.signal(number, signal.SIG_IGN)
        if not self.is_told:  # two signals may have come before this was called for the first
            super().handle_exit(sig, frame)


def _serve(settings: Settings, tallies: Tallies, listening: socket) -> None:
    configure_logging(settings)
    server = _Worker(settings, tallies)
    for number in ENDINGS.values():
        signal.signal(number, server.handle_exit)
    server.run([listening])


def _work(serve: Serve, settings: Settings, tallies: list[Tally], number: int, listening: socket) -> None:
    Thread(target=_end_with_the_parent, daemon=True).start()
    serve(settings, Tallies(tallies, number), listening)


def _end_with_the_parent() -> None:
    """Should it be killed, nobody else would tell us to end."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
