"""A model that computes: sessions of one graph, run by as many threads so that the event loop stays free."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from service.certificate import Run
from service.protocol import Arrays


class OnnxModel:
    """Runs batches side by side, one session each.

    One session could be run by several threads, but they then wait for each other's memory arena:
    docs/decisions/0003-a-session-an-instance.md.
    """

    def __init__(self, name: str, instances: Sequence[Run]) -> None:
        # Threads of its own: a slow model must not hold up a fast one.
        self._threads = ThreadPoolExecutor(len(instances), thread_name_prefix=name)
        self._idle = SimpleQueue[Run]()
        for run in instances:
            self._idle.put(run)

    async def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name for inputs by name, from the next idle session."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, inputs)

    def _run(self, inputs: Arrays) -> Arrays:
        run = self._idle.get_nowait()  # there are as many sessions as threads
        try:
            return run(inputs)
        finally:
            self._idle.put(run)

    def close(self) -> None:
        """Wait for the runs under way and end the threads."""
        self._threads.shutdown()
