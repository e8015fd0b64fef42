"""``python -m bench.replicas``: one and two workers of the service, and one and two replicas of it on Ray, by turns."""

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.load import Load, answer_to, loaded
from bench.oip import BINARY, encoded
from bench.raw import one_row
from bench.ray_nodes import ON_LOOPBACK
from bench.sections import CONNECTIONS, REPOSITORY, SHAPE, export_models
from bench.servers import Server, free_port, normserve, running
from experiments.results import write_results
from service.cores import available_cores

RESULTS = Path("bench/results")
COUNTS = (1, 2)
WARM_S = 1.0
# model: its repository, and a request of one row
MODELS = {
    "post-ln-encoder": (REPOSITORY, {"x": one_row(SHAPE)}),
    "ln-mlp-digits": (Path("artifacts"), {"x": np.full((1, 64), 0.5, "f4")}),
}

Serving = AbstractContextManager[Server]


def workers(count: int, port: int, repository: Path) -> Serving:
    """So many of ``python -m service``."""
    return normserve(port, model_repository=str(repository), workers=str(count), drain_seconds="0")


def replicas(count: int, port: int, repository: Path) -> Serving:
    """So many of deploy/ray, behind Ray's proxy."""
    command = [sys.executable, "-m", "bench.ray_server", "--port", str(port), "--replicas", str(count)]
    environment = ON_LOOPBACK | {"NORMSERVE_MODEL_REPOSITORY": str(repository.absolute())}
    ready = f"http://127.0.0.1:{port}/v2/health/ready"
    return running([*command, "--cores", str(available_cores())], ready, **environment)


WAYS = {
    **{f"WORKERS={count}": partial(workers, count) for count in COUNTS},
    **{f"Ray, {count} replica{'s' * (count > 1)}": partial(replicas, count) for count in COUNTS},
}


def measure(rounds: int, seconds: float, console: Console) -> dict[str, dict[str, list[float]]]:
    """Requests a second by model and way, a figure a round; only the way that is measured runs.

    Raises RuntimeError when an answer has other bytes than the first of all ways.
    """
    found: dict[str, dict[str, list[float]]] = {model: {way: [] for way in WAYS} for model in MODELS}
    expected: dict[str, bytes] = {}
    with console.status("") as status:
        for number in range(rounds):
            for model, (repository, row) in MODELS.items():
                for way, serving in WAYS.items():
                    status.update(f"round {number + 1} of {rounds}: {model}, {way}")
                    port = free_port()
                    load = Load(f"http://127.0.0.1:{port}/v2/models/{model}/infer", *encoded(row, BINARY, {}))
                    with serving(port, repository):
                        body = expected.setdefault(model, answer_to(load)[0])
                        loaded(load, connections=CONNECTIONS, seconds=WARM_S, expected=body)
                        figures = loaded(load, connections=CONNECTIONS, seconds=seconds, expected=body)
                    found[model][way].append(round(figures.requests_per_second, 1))
    return found


def table(model: str, ways: dict[str, list[float]], rounds: int) -> Table:
    """Medians, and what they are of one worker's."""
    printed = Table(title=f"{model}, a row a request, {CONNECTIONS} connections, medians of {rounds}")
    for column in ("way", "requests/s", "lowest", "highest", "over one worker"):
        printed.add_column(column)
    one = statistics.median(next(iter(ways.values())))
    for way, figures in ways.items():
        median = statistics.median(figures)
        printed.add_row(way, *(f"{each:.0f}" for each in (median, min(figures), max(figures))), f"{median / one:.2f}")
    return printed


def main(arguments: Sequence[str]) -> None:
    """Measure, write the figures down and print their medians."""
    parser = argparse.ArgumentParser(prog="python -m bench.replicas", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each way (5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="that each way is loaded in a round (3)")
    options = parser.parse_args(arguments)
    console = Console()
    export_models()
    found = measure(options.rounds, options.seconds, console)
    config = {"rounds": options.rounds, "seconds": options.seconds, "connections": CONNECTIONS}
    versions = {name: version(name) for name in ("ray", "onnxruntime", "uvicorn")}
    write_results("replicas", {"config": config, "requests_per_second": found}, RESULTS, versions)
    for model, ways in found.items():
        console.print(table(model, ways, options.rounds))


if __name__ == "__main__":
    main(sys.argv[1:])
