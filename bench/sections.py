"""What ``make bench`` measures. Each section returns the figures of every round; in a round its ways take turns."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.load import Load, Loaded, loaded
from bench.oip import BINARY, encoded
from bench.peers.catalogue import PEERS
from bench.peers.measure import measure, prepare
from bench.raw import RawModel, one_row
from bench.servers import asgi, normserve
from bench.ways import ECHO_PORT, NAIVE_PORT, PORT, naive, ours
from service.cores import available_cores

MODELS = ("post-ln-encoder", "pre-ln-encoder")
REPOSITORY = Path("build/bench/models")
SHAPE = (1, 32, 256)
CONNECTIONS = 16
SWEEP = (1, 2, 4, 8, 16, 32, 64, 128, 256)
RAW_SETTINGS = 3  # of the best, measured again in each round
OPEN_LOOP_SHARE, OPEN_LOOP_USERS, LEAST_OPEN_LOOP_SECONDS = 0.7, 64, 5

Rounds = list[dict[str, Any]]
Say = Callable[[str], object]


@dataclass(frozen=True)
class Effort:
    """How often each way is measured, and for how long each time."""

    rounds: int
    seconds: float


def export_models() -> None:
    """The encoders have random weights and are not in the repository."""
    missing = [model for model in MODELS if not (REPOSITORY / model / "1" / "manifest.json").exists()]
    if missing:
        command = [sys.executable, "-m", "export", "--repository", str(REPOSITORY), *missing]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603


def raw_model(model: str) -> RawModel:
    """To be run in this process."""
    return RawModel(REPOSITORY / model / "1", {"x": one_row(SHAPE)}, available_cores())


def throughput(model: str, effort: Effort, say: Say) -> Rounds:
    """Raw, our batcher without HTTP, over HTTP, and the naive server."""
    raw, row = raw_model(model), one_row(SHAPE)
    settings = raw.best(RAW_SETTINGS)
    say(f"{model}: raw is best with {settings[0]}")
    file = str(REPOSITORY / model / "1" / "model.onnx")
    with (
        normserve(PORT, model_repository=str(REPOSITORY)) as server,
        asgi("bench.naive_server:app", NAIVE_PORT, NAIVE_MODEL=file) as other,
    ):
        ways = {**ours(model, row, server), "naive": naive(row, other)}
        expected = {name: way.check(raw.answer()) for name, way in ways.items()}
        rounds: Rounds = []
        for number in range(effort.rounds):
            say(f"{model}: round {number + 1} of {effort.rounds}")
            rates = {str(setting): raw.rate(setting, effort.seconds) for setting in settings}
            best = max(rates.values(), key=lambda rate: rate.rows_per_second)
            found: dict[str, Any] = {
                "raw": {"requests_per_second": best.rows_per_second, "cpu_seconds": best.cpu_seconds},
                "raw settings": {name: rate.rows_per_second for name, rate in rates.items()},
                "batcher": {"requests_per_second": raw.batched_rate(CONNECTIONS, effort.seconds)},
            }
            for name, way in ways.items():
                figures, cpu = way.measure(CONNECTIONS, effort.seconds, expected[name])
                found[name] = {**asdict(figures), "cpu_seconds": cpu}
            rounds.append(found)
        return rounds


def one_row_of_layer_norm(effort: Effort, say: Say) -> Rounds:
    """Against an ASGI application under the same server that sends the same body back."""
    rng = np.random.default_rng(0)
    arrays = {"x": rng.standard_normal((1, 768)), "weight": rng.standard_normal(768), "bias": rng.standard_normal(768)}
    arrays = {name: array.astype("f4") for name, array in arrays.items()}
    url, echo = f"http://127.0.0.1:{PORT}/v2/models/layer_norm/infer", f"http://127.0.0.1:{ECHO_PORT}/"
    body, headers = encoded(arrays, BINARY, {})
    alone, alone_headers = encoded({"x": arrays["x"]}, BINARY, {})
    loads = {
        "x, weight, bias": Load(url, body, headers),
        "echo of x, weight, bias": Load(echo, body, headers),
        "x": Load(url, alone, alone_headers),
        "echo of x": Load(echo, alone, alone_headers),
    }
    with normserve(PORT), asgi("bench.echo_server:app", ECHO_PORT):
        rounds: Rounds = []
        for number in range(effort.rounds):
            say(f"one row: round {number + 1} of {effort.rounds}")
            rounds.append(
                {
                    f"{name}, {connections} connections": asdict(
                        loaded(load, connections=connections, seconds=effort.seconds)
                    )
                    for name, load in loads.items()
                    for connections in (1, CONNECTIONS)
                }
            )
        return rounds


def latency(model: str, effort: Effort, say: Say) -> Rounds:
    """One connection against one ``session.run`` after the other."""
    raw, row = raw_model(model), one_row(SHAPE)
    with normserve(PORT, model_repository=str(REPOSITORY)) as server:
        ways = ours(model, row, server)
        rounds: Rounds = []
        for number in range(effort.rounds):
            say(f"latency: round {number + 1} of {effort.rounds}")
            found: dict[str, Any] = {"raw": {"p50_s": raw.latency(effort.seconds)}}
            found |= {
                name: asdict(loaded(way.load, connections=1, seconds=effort.seconds)) for name, way in ways.items()
            }
            rounds.append(found)
        return rounds


def connections(model: str, effort: Effort, say: Say) -> Rounds:
    """Throughput and latency from one connection to 256."""
    row = one_row(SHAPE)
    file = str(REPOSITORY / model / "1" / "model.onnx")
    with (
        normserve(PORT, model_repository=str(REPOSITORY), max_queue_size=str(2 * max(SWEEP))) as server,
        asgi("bench.naive_server:app", NAIVE_PORT, NAIVE_MODEL=file) as other,
    ):
        ways = {**ours(model, row, server), "naive": naive(row, other)}
        del ways["JSON, nested"]
        rounds: Rounds = []
        for number in range(effort.rounds):
            found: dict[str, Any] = {}
            for count in SWEEP:
                say(f"connections: round {number + 1} of {effort.rounds}, {count} connections")
                for name, way in ways.items():
                    at_once = asdict(loaded(way.load, connections=count, seconds=effort.seconds))
                    found.setdefault(name, {})[str(count)] = at_once
            rounds.append(found)
        return rounds


def open_loop(model: str, effort: Effort, say: Say) -> Rounds:
    """Requests at fixed times, whether or not others are answered: Locust, at a share of what wrk is answered."""
    locust = [sys.executable, "-m", "locust", "--locustfile", "bench/locustfile.py", "--headless", "--only-summary"]
    locust += ["--loglevel", "WARNING", "--host", f"http://127.0.0.1:{PORT}", "--model", model, "--length", "32"]
    locust += ["--users", str(OPEN_LOOP_USERS), "--run-time", f"{max(LEAST_OPEN_LOOP_SECONDS, effort.seconds):.0f}"]
    with normserve(PORT, model_repository=str(REPOSITORY)) as server:
        way = ours(model, one_row(SHAPE), server)["binary"]
        rounds: Rounds = []
        for number in range(effort.rounds):
            say(f"open loop: round {number + 1} of {effort.rounds}")
            capacity = loaded(way.load, connections=CONNECTIONS, seconds=effort.seconds).requests_per_second
            rate = OPEN_LOOP_SHARE * capacity
            command = [*locust, "--rate", f"{rate:.1f}"]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
            figures = dict(re.findall(r"^(requests/s|p50|p99) +([\d.]+)", said, re.MULTILINE))
            rounds.append({"rate": rate, **{name: float(figure) for name, figure in figures.items()}})
        return rounds


def starts(effort: Effort, say: Say) -> Rounds:
    """Until every model of ``artifacts/`` is ready, and the memory that the process then has."""
    rounds: Rounds = []
    for number in range(effort.rounds):
        say(f"starts: round {number + 1} of {effort.rounds}")
        started = time.perf_counter()
        with normserve(PORT) as server:
            ready = time.perf_counter() - started
            rounds.append({"ready_s": ready, "resident_bytes": server.resident_bytes()})
    return rounds


def peers(model: str, effort: Effort, say: Say) -> dict[str, Any]:
    """The other servers beside ours: the figures of every round, and why those that failed did."""
    folder, row = REPOSITORY / model / "1", one_row(SHAPE)
    wanted = raw_model(model).answer()
    failed: dict[str, str] = {}
    rounds: Rounds = []
    with normserve(PORT, model_repository=str(REPOSITORY)) as server:
        ways = ours(model, row, server)
        for number in range(effort.rounds):
            found: dict[str, Any] = {
                name: loaded(way.load, connections=CONNECTIONS, seconds=effort.seconds).requests_per_second
                for name, way in ways.items()
            }
            for peer in PEERS:
                if peer.name in failed:
                    continue
                say(f"peers: round {number + 1} of {effort.rounds}, {peer.name}")
                try:
                    prepare(peer)
                    found[peer.name] = measure(
                        peer, row, wanted, folder, connections=CONNECTIONS, seconds=effort.seconds
                    )
                except (RuntimeError, OSError) as error:  # PeerError and wrk's are RuntimeErrors
                    failed[peer.name] = str(error)
            rounds.append(found)
    versions = {peer.name: peer.version for peer in PEERS}
    return {"rounds": rounds, "failed": failed, "versions": versions}


def bf16(model: str, effort: Effort, say: Say) -> Rounds | str:
    """OpenVINO at bf16 against raw fp32 on the CPU provider, or why there is nothing to measure."""
    raw, row = raw_model(model), one_row(SHAPE)
    settings = raw.best(RAW_SETTINGS)
    start = partial(normserve, PORT, model_repository=str(REPOSITORY), execution_provider="openvino", precision="bf16")
    try:
        with start() as server:
            way = ours(model, row, server)["binary"]
            rounds: Rounds = []
            for number in range(effort.rounds):
                say(f"bf16: round {number + 1} of {effort.rounds}")
                rates = [raw.rate(setting, effort.seconds).rows_per_second for setting in settings]
                figures: Loaded = loaded(way.load, connections=CONNECTIONS, seconds=effort.seconds)
                rounds.append({"raw": max(rates), "binary": figures.requests_per_second})
            return rounds
    except RuntimeError as error:
        return str(error)
