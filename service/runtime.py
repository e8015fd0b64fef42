"""A model that computes: sessions of one graph, each run by a thread of its own so that the event loop stays free."""

import asyncio
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

from service.certificate import Run
from service.cores import available_cores, usable_cores
from service.pace import Pace
from service.protocol import Arrays

# Of the threads that run sessions, beside the event loop: what it has to do is short, and they wait for it
# (docs/decisions/0009). Threads that onnxruntime adds for a wide run stay as they are.
NICENESS = 10

# A run as short as this costs less than the way to a thread and back: the event loop does it itself. An MLP of 16 us
# with 1 and 16 connections: 3509 -> 5490 and 8952 -> 10 994 requests/s; an LSTM of 60 us gains nothing.
SHORT_RUN_S = 50e-6


@dataclass(frozen=True)
class _Instance:
    """A session and its thread: both stay on one core, where the weights are in the cache."""

    run: Run
    thread: ThreadPoolExecutor


class OnnxModel:
    """Runs batches side by side, one session each.

    One session could be run by several threads, but they then wait for each other's memory arena:
    docs/decisions/0003-a-session-an-instance.md.
    """

    def __init__(
        self,
        name: str,
        instances: Sequence[Run],
        wide: Run | None = None,
        *,
        has_the_cores: bool = True,
        on_cores: bool = True,
    ) -> None:
        """wide: a session of as many threads as there are cores, for the run that has them all to itself.

        has_the_cores: False where other processes serve the same, which would choose the same cores. on_cores: False
        where something else computes, a GPU, for which the threads only wait.
        """
        cores = cores_for(len(instances)) if has_the_cores and on_cores else []
        self._on_cores = on_cores
        # Threads of its own: a slow model must not hold up a fast one.
        self._instances = [
            _Instance(run, _thread(f"{name}-{number}", cores[number] if cores else None))
            for number, run in enumerate(instances)
        ]
        self._idle = list(self._instances)
        self._wide = None if wide is None else _Instance(wide, _thread(f"{name}-wide", None))
        self._pace = Pace()

    async def run_alone(self, inputs: Arrays) -> Arrays:
        """The same as :meth:`run`, sooner, with every core; while others run too it would slow them down."""
        if self._wide is None or self._is_short(inputs):
            return await self.run(inputs)
        return await self._run(self._wide, inputs)

    async def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name for inputs by name, from the idle session that ran last; no more at once than instances."""
        instance = self._idle.pop()
        try:
            return await self._run(instance, inputs)
        finally:
            self._idle.append(instance)

    def close(self) -> None:
        """Wait for the runs under way, end the threads and let go of the sessions. Blocking."""
        for instance in (*self._instances, *([self._wide] if self._wide else [])):
            instance.thread.shutdown()
        self._instances.clear()
        self._idle.clear()
        self._wide = None

    async def _run(self, instance: _Instance, inputs: Arrays) -> Arrays:
        if self._is_short(inputs):
            outputs, seconds = _timed(instance.run, inputs)
        else:
            loop = asyncio.get_running_loop()
            outputs, seconds = await loop.run_in_executor(instance.thread, _timed, instance.run, inputs)
        self._pace.observe(_nbytes(inputs), seconds)
        return outputs

    def _is_short(self, inputs: Arrays) -> bool:
        # A GPU's time for a row is nearly that for many: by what many took, every single one would seem short.
        return self._on_cores and self._pace.seconds(_nbytes(inputs), unknown=math.inf) < SHORT_RUN_S


def _timed(run: Run, inputs: Arrays) -> tuple[Arrays, float]:
    started = perf_counter()
    return run(inputs), perf_counter() - started


def _nbytes(inputs: Arrays) -> int:
    return sum(array.nbytes for array in inputs.values())


def cores_for(instances: int) -> list[int]:
    """A core for each instance; none where they would not have it for themselves.

    A quota of the cgroup leaves open which cores are meant: all that are limited by one would choose the same.
    """
    cores = usable_cores()
    return cores if instances == len(cores) == available_cores() else []


def _thread(name: str, core: int | None) -> ThreadPoolExecutor:
    def begin() -> None:
        if not hasattr(os, "sched_setaffinity"):  # only Linux has it, and only there is a niceness the thread's alone
            return
        with suppress(OSError):  # a sandbox may forbid it; nothing but speed depends on it
            os.setpriority(os.PRIO_PROCESS, 0, min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS))
            if core is not None:
                os.sched_setaffinity(0, {core})

    return ThreadPoolExecutor(1, thread_name_prefix=name, initializer=begin)
