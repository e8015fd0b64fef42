"""``python -m bench.memory``: memory and speed of onnxruntime's memory options over mixed shapes (docs/decisions/0014).

Each way is a process of its own that runs the same sequence of batches on every model of ``artifacts/``, one session an
instance as the service has them, each instance in a thread. All ways by turns, several rounds.
"""

import argparse
import ctypes
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import psutil

from bench.asks import REPOSITORY, manifests
from service.artifact import Artifact
from service.certificate import open_session, samples, session_options, warm_up
from service.cores import available_cores
from service.protocol import Arrays

SHRINK = "memory.enable_memory_arena_shrinkage"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
MOST_ROWS, MOST_LENGTH = 64, 512
SMALL_ROWS, SMALL_LENGTH = 4, 32
SMALL_BATCHES, SMALL_TIMES = 300, 20  # different ones, and how often each is run
MOST_TOKENS = 8192  # rows x length of a batch: beyond it a run takes seconds


@dataclass(frozen=True)
class Way:
    """shrinks_from: bytes of a run's inputs. shared: one arena for all sessions. keeps: see ``_keep``."""

    arena: bool = True
    pattern: bool = False
    shrinks_from: float = math.inf
    shared: bool = False
    keeps: bool = False


WAYS = {
    "arena": Way(),
    "arena, pattern": Way(pattern=True),
    "arena, shrunk after each run": Way(shrinks_from=0),
    "arena, shrunk after runs of 16 KiB and more": Way(shrinks_from=2**14),
    "one arena for all sessions": Way(shared=True),
    "no arena (as it is)": Way(arena=False),
    "no arena, pattern": Way(arena=False, pattern=True),
    "no arena, malloc keeps 64 MiB": Way(arena=False, keeps=True),
}


def batches(runs: int, seed: int, most_rows: int, most_length: int) -> Iterator[tuple[int, Arrays]]:
    """Which model, and its inputs: as many rows and characters as not, small ones as often as large ones."""
    rng, models = np.random.default_rng(seed), manifests()
    for _ in range(runs):
        number = int(rng.integers(len(models)))
        first = models[number].inputs[0]
        rows, length = (int(most ** rng.random()) for most in (most_rows, most_length))
        if first.shape.count(-1) > 1:
            rows = min(rows, max(1, MOST_TOKENS // length))
        free = iter((rows, length))
        shape = [next(free) if size == -1 else size for size in first.shape]
        yield number, samples(models[number], shape, rng)


def _keep() -> None:
    """Let malloc take up to 32 MiB from its heap, and give memory back to the system only from 64 MiB on."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
    mallopt(M_TRIM_THRESHOLD, 64 * 2**20)


def measured(way: Way, runs: int) -> dict[str, float]:
    """Resident megabytes after loading, after each sequence and at most, and processor seconds; of this process."""
    if way.shared:
        memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
        ort.create_and_register_allocator(memory, None)

    def options_for(threads: int) -> ort.SessionOptions:
        options = session_options(threads)
        options.enable_cpu_mem_arena, options.enable_mem_pattern = way.arena, way.pattern
        if way.shared:
            options.add_session_config_entry("session.use_env_allocators", "1")
        return options

    if way.keeps:
        _keep()
    plain, shrinking = ort.RunOptions(), ort.RunOptions()
    shrinking.add_run_config_entry(SHRINK, "cpu:0")
    runners: list[list[Callable[[Arrays], object]]] = [[] for _ in range(available_cores())]
    for file in sorted(REPOSITORY.glob("*/*/manifest.json")):
        artifact = Artifact.read(file.parent)
        for instance in runners:
            session = open_session(artifact.graph, artifact.weights, 1, options_for)
            names = [output.name for output in artifact.manifest.outputs]

            def run(inputs: Arrays, session: ort.InferenceSession = session, names: list[str] = names) -> Arrays:
                is_large = sum(array.nbytes for array in inputs.values()) >= way.shrinks_from
                return dict(zip(names, session.run(names, inputs, shrinking if is_large else plain), strict=True))

            warm_up(run, artifact.manifest)
            instance.append(run)
    small, mixed = (
        [list(batches(count, seed, *most)) for seed in range(len(runners))]
        for count, most in ((SMALL_BATCHES, (SMALL_ROWS, SMALL_LENGTH)), (runs, (MOST_ROWS, MOST_LENGTH)))
    )
    process, peak = psutil.Process(), 0

    def work(instance: list[Callable[[Arrays], object]], todo: list[tuple[int, Arrays]], times: int) -> None:
        nonlocal peak
        for turn, (model, inputs) in enumerate(todo * times):
            instance[model](inputs)
            if turn % 16 == 0:
                peak = max(peak, process.memory_info().rss)

    found = {"loaded_mb": process.memory_info().rss / 1e6}
    with ThreadPoolExecutor(len(runners)) as pool:
        for name, todo, times in (
            ("small", small, SMALL_TIMES),
            ("mixed", mixed, 1),
            ("small again", small, SMALL_TIMES),
        ):
            started = time.process_time()  # of all threads: others on the machine change it least
            list(pool.map(work, runners, todo, [times] * len(runners)))
            found[f"{name}_s"] = time.process_time() - started
            found[f"after_{name}_mb"] = process.memory_info().rss / 1e6
    return found | {"peak_mb": peak / 1e6}


def main(arguments: Sequence[str]) -> int:
    """Print a table of medians."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=600, help="of mixed shapes in each of the threads (600)")
    parser.add_argument("--way", choices=WAYS, help="measure this one in this process and print its figures as JSON")
    options = parser.parse_args(arguments)
    if options.way:
        sys.stdout.write(json.dumps(measured(WAYS[options.way], options.runs)))
        return 0
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for _ in range(options.rounds):
        for name in WAYS:
            command = [sys.executable, "-m", "bench.memory", "--way", name, "--runs", str(options.runs)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
            found[name].append(json.loads(said))
    columns = list(found["arena"][0])
    sys.stdout.write(f"| way | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}\n")
    for name, rounds in found.items():
        medians = (float(np.median([each[column] for each in rounds])) for column in columns)
        sys.stdout.write(f"| {name} | {' | '.join(f'{median:.4g}' for median in medians)} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
