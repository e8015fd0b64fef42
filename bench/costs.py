"""What one request costs the service, measured: processor time, the event loop's part of it, bytes on the wire."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson

from bench import sections
from bench.load import Load, answer_to, loaded
from bench.oip import BINARY, encoded
from bench.raw import one_row
from bench.sections import Effort, Rounds, Say
from bench.servers import Server, normserve
from service.protocol import Arrays

PORT = 8396
CONNECTIONS = 16
ENCODER = "post-ln-encoder"
A_CONNECTION_EACH = "binary, a connection each"


@dataclass(frozen=True)
class Cost:
    """Of one request. Seconds are of processor time; the loop's are those of the thread that reads and writes."""

    requests_per_second: float
    cpu_seconds: float
    loop_seconds: float


def requests(model: str, arrays: Arrays) -> dict[str, Load]:
    """The same request in each form."""
    url = f"http://127.0.0.1:{PORT}/v2/models/{model}/infer"
    tensors = [
        {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.ravel()}
        for name, array in arrays.items()
    ]
    binary, headers = encoded(arrays, BINARY, {})
    text = orjson.dumps({"inputs": tensors}, option=orjson.OPT_SERIALIZE_NUMPY)
    return {
        "binary": Load(url, binary, headers),
        "JSON": Load(url, text, {"Content-Type": "application/json"}),
        A_CONNECTION_EACH: Load(url, binary, headers | {"Connection": "close"}),
    }


def workloads() -> dict[str, tuple[Path, dict[str, Load]]]:
    """By name: the folder of models that is served, and the requests."""
    rng = np.random.default_rng(0)
    row = {"x": rng.standard_normal((1, 768)), "weight": rng.standard_normal(768), "bias": rng.standard_normal(768)}
    digit = (rng.integers(0, 17, (1, 64)) / 16).astype("f4")
    small = Path("artifacts")
    return {
        "layer_norm": (small, requests("layer_norm", {name: array.astype("f4") for name, array in row.items()})),
        "ln-mlp-digits": (small, requests("ln-mlp-digits", {"x": digit})),
        ENCODER: (sections.REPOSITORY, requests(ENCODER, {"x": one_row(sections.SHAPE)})),
    }


def measure(effort: Effort, say: Say) -> dict[str, Any]:
    """Every workload in every form, the forms by turns. Raises RuntimeError where wrk or an answer is missing."""
    sections.export_models()
    found: dict[str, Any] = {}
    for name, (folder, loads) in workloads().items():
        with normserve(PORT, model_repository=str(folder)) as server:
            sizes = {form: exchanged(load) for form, load in loads.items()}
            rounds: Rounds = []
            for number in range(effort.rounds):
                say(f"{name}: round {number + 1} of {effort.rounds}")
                rounds.append({form: asdict(cost(server, load, effort.seconds)) for form, load in loads.items()})
        found[name] = {
            form: {"request_bytes": sizes[form][0], "answer_bytes": sizes[form][1], "rounds": [r[form] for r in rounds]}
            for form in loads
        }
    return found


def cost(server: Server, load: Load, seconds: float) -> Cost:
    """Under so many connections that the service always has something to do."""
    before, loop_before = server.cpu_seconds(), loop_seconds(server)
    figures = loaded(load, connections=CONNECTIONS, seconds=seconds)
    used, of_loop = server.cpu_seconds() - before, loop_seconds(server) - loop_before
    return Cost(figures.requests_per_second, used / figures.requests, of_loop / figures.requests)


def loop_seconds(server: Server) -> float:
    """Processor time of the event loop's thread, which is the process's first."""
    [first] = [thread for thread in server.process.threads() if thread.id == server.process.pid]
    return float(first.user_time + first.system_time)


def exchanged(load: Load) -> tuple[int, int]:
    """Bytes of request and answer, heads included, as TCP carries them."""
    parts = urlsplit(load.url)
    fields = {"Host": parts.netloc, "Content-Length": str(len(load.body)), **load.headers}
    line = f"POST {parts.path} HTTP/1.1\r\n"
    body, headers = answer_to(load)
    return len(line) + _head(fields) + len(load.body), len("HTTP/1.1 200 OK\r\n") + _head(dict(headers)) + len(body)


def _head(fields: dict[str, str]) -> int:
    return sum(len(f"{name}: {value}\r\n") for name, value in fields.items()) + len("\r\n")
