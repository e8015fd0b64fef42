"""``python -m bench.operations``: layer_norm over HTTP against a naive server, and numpy and torch in process."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from bench.load import Load, answer_to, loaded
from bench.oip import BINARY, HEADER_LENGTH, JSON, encoded
from bench.servers import asgi, normserve
from experiments.results import write_results

ROUNDS, SECONDS, CONNECTIONS = 5, 2, 16
PORT, NAIVE_PORT = 8391, 8392
RESULTS = Path("bench/results")
SHAPES = ((1, 768), (64, 768), (4096, 1024))
LARGEST_JSON = 64 * 768


def loads(arrays: dict[str, np.ndarray]) -> dict[str, Load]:
    """The same request in every form that is sensible for its size."""
    oip = f"http://127.0.0.1:{PORT}/v2/models/layer_norm/infer"
    found = {"ours, binary": Load(oip, *encoded(arrays, BINARY, {}))}
    if arrays["x"].size <= LARGEST_JSON:
        nested = json.dumps({name: array.tolist() for name, array in arrays.items()}).encode()
        as_json = {"Content-Type": "application/json"}
        found |= {
            "ours, JSON": Load(oip, *encoded(arrays, JSON, {})),
            "ours, /v1/ops": Load(f"http://127.0.0.1:{PORT}/v1/ops/layer_norm", nested, as_json),
            "naive": Load(f"http://127.0.0.1:{NAIVE_PORT}/layer_norm", nested, as_json),
        }
    return found


def in_process(arrays: dict[str, np.ndarray]) -> dict[str, Callable[[], Any]]:
    """What a caller that has numpy or torch would do without a server, on one thread."""
    x, weight, bias = arrays["x"], arrays["weight"], arrays["bias"]
    tensors = [torch.from_numpy(array) for array in (x, weight, bias)]

    def by_numpy() -> np.ndarray:
        mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
        y: np.ndarray = (x - mean) / np.sqrt(variance + np.float32(1e-5)) * weight + bias
        return y

    return {"numpy": by_numpy, "torch": lambda: F.layer_norm(tensors[0], weight.shape, tensors[1], tensors[2])}


def calls_per_second(call: Callable[[], Any], seconds: float) -> float:
    """One call after the other."""
    started, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < seconds:
        call()
        count += 1
    return count / passed


def check(load: Load, arrays: dict[str, np.ndarray]) -> None:
    """An answer is layer_norm's. Raises RuntimeError when it is not."""
    content, headers = answer_to(load)
    if length := headers.get(HEADER_LENGTH):
        y = np.frombuffer(content[int(length) :], "f4")
    else:
        document = json.loads(content)
        y = np.array(document["outputs"][0]["data"] if "outputs" in document else document["y"], "f4").ravel()
    wanted = in_process(arrays)["torch"]().numpy().ravel()
    if not np.allclose(y, wanted, rtol=1e-4, atol=1e-5):
        raise RuntimeError(f"{load.url} does not answer layer_norm")


def measure(shape: tuple[int, int]) -> dict[str, list[float]]:
    """Requests a second of each way, a figure a round, the ways by turns."""
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.standard_normal(shape).astype("f4"),
        "weight": rng.standard_normal(shape[1]).astype("f4"),
        "bias": rng.standard_normal(shape[1]).astype("f4"),
    }
    ways = loads(arrays)
    for load in ways.values():
        check(load, arrays)
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, load in ways.items():
            figure = loaded(load, connections=CONNECTIONS, seconds=SECONDS)
            found.setdefault(name, []).append(round(figure.requests_per_second, 1))
        for name, call in in_process(arrays).items():
            found.setdefault(name, []).append(round(calls_per_second(call, SECONDS / 4), 1))
    return found


def main() -> None:
    """Measure every shape; print the medians and write all figures down."""
    torch.set_num_threads(1)
    console = Console()
    with (
        normserve(PORT),
        asgi("bench.naive_server:app", NAIVE_PORT),
        console.status("measuring"),
    ):
        found = {"x".join(map(str, shape)): measure(shape) for shape in SHAPES}
    settings = {"rounds": ROUNDS, "seconds": SECONDS, "connections": CONNECTIONS}
    write_results("operations", {"config": settings, "requests_per_second": found}, RESULTS)
    for shape, ways in found.items():
        table = Table(title=f"layer_norm of {shape}, {CONNECTIONS} connections, medians of {ROUNDS}")
        for column in ("way", "requests/s", "lowest", "highest", "over naive"):
            table.add_column(column)
        naive_median = statistics.median(ways["naive"]) if "naive" in ways else None
        for name, figures in ways.items():
            median = statistics.median(figures)
            ratio = "" if naive_median is None else f"{median / naive_median:.1f}"
            table.add_row(name, f"{median:.0f}", f"{min(figures):.0f}", f"{max(figures):.0f}", ratio)
        console.print(table)


if __name__ == "__main__":
    main()
