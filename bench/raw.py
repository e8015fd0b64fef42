"""``session.run`` without any server: what there is to be had."""

import asyncio
import itertools
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import uvloop

from service.batcher import Batcher
from service.call import Call
from service.certificate import open_session, runner
from service.manifest import Manifest
from service.metrics import Metrics
from service.protocol import Array, Arrays
from service.runtime import OnnxModel

BATCHES = (1, 4, 8, 16, 32)
SCREENED_SECONDS = 1.0


@dataclass(frozen=True)
class Setting:
    """threads: each runs batches on a session of its own, which has so many intra-op threads."""

    threads: int
    intra_op_threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.threads} x {self.intra_op_threads}-thread session, batch {self.batch}"


@dataclass(frozen=True)
class Rate:
    """Rows a second, and processor time of a row."""

    rows_per_second: float
    cpu_seconds: float


class RawModel:
    """One artifact, run in this process."""

    def __init__(self, folder: Path, row: Arrays, cores: int) -> None:
        """row: inputs of one row, (1, ...) by name."""
        self.row = row
        self.manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
        graph, weights = (folder / "model.onnx").read_bytes(), (folder / "model.safetensors").read_bytes()
        open_one = partial(open_session, graph, weights)
        self.cores = cores
        self._sessions: dict[int, list[ort.InferenceSession]] = {1: [open_one(1) for _ in range(cores)]}
        if cores > 1:
            self._sessions[cores] = [open_one(cores)]

    def settings(self) -> list[Setting]:
        """Threads and intra-op threads, together no more than the cores, and batches."""
        shared = {(1, 1), (self.cores, 1), (1, self.cores)}
        return [Setting(*threads, batch) for threads, batch in itertools.product(sorted(shared), BATCHES)]

    def best(self, count: int) -> list[Setting]:
        """Those with the most rows a second."""
        return sorted(self.settings(), key=lambda each: -self.rate(each, SCREENED_SECONDS).rows_per_second)[:count]

    def rate(self, setting: Setting, seconds: float) -> Rate:
        """Run without a pause."""
        inputs = {name: np.repeat(array, setting.batch, axis=0) for name, array in self.row.items()}
        sessions = self._sessions[setting.intra_op_threads][: setting.threads]
        rows = [0] * setting.threads
        ends = time.perf_counter() + seconds

        def run(thread: int) -> None:
            while time.perf_counter() < ends:
                sessions[thread].run(None, inputs)
                rows[thread] += setting.batch

        started, used = time.perf_counter(), time.process_time()
        threads = [threading.Thread(target=run, args=(thread,)) for thread in range(setting.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        total = sum(rows)
        return Rate(total / (time.perf_counter() - started), (time.process_time() - used) / total)

    def latency(self, seconds: float) -> float:
        """The median of one row alone, with the number of threads that is quickest."""
        found = []
        for sessions in self._sessions.values():
            taken, ends = [], time.perf_counter() + seconds / len(self._sessions)
            while (started := time.perf_counter()) < ends:
                sessions[0].run(None, self.row)
                taken.append(time.perf_counter() - started)
            found.append(float(np.median(taken)))
        return min(found)

    def answer(self) -> Array:
        """The first output for the row."""
        first: Array = self._sessions[1][0].run(None, self.row)[0]
        return first

    def batched_rate(self, clients: int, seconds: float) -> float:
        """Rows a second through our batcher, each of so many clients asking for one row at a time; no HTTP."""

        async def measure() -> float:
            instances = [runner(session, self.manifest) for session in self._sessions[1]]
            model = OnnxModel("raw", instances)
            batcher = Batcher(
                "raw",
                model.run,
                Metrics().of_model("raw", "1"),
                merges=True,
                instances=len(instances),
                max_batch_size=64,
                max_queue_delay_ms=0,
                max_queue_size=clients,
                max_queue_bytes=2**30,
            )
            ends, answered = time.perf_counter() + seconds, 0

            async def client() -> None:
                nonlocal answered
                while time.perf_counter() < ends:
                    await batcher.submit(self.row, Call(seconds + 60))
                    answered += 1

            started = time.perf_counter()
            async with batcher:
                await asyncio.gather(*(client() for _ in range(clients)))
            rate = answered / (time.perf_counter() - started)
            model.close()
            return rate

        return uvloop.run(measure())


def one_row(shape: tuple[int, ...], seed: int = 0) -> Array:
    """Normal numbers."""
    row: Array = np.random.default_rng(seed).standard_normal(shape).astype("f4")
    return row
