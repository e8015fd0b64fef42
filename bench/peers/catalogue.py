"""The other servers: what each is called, runs on, listens to and answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.load import Load
from bench.peers import wire

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Peer:
    """A server that is started as ``python -m bench.peers.<key>_server --port PORT --model FOLDER``."""

    key: str  # of its files here and its folder under build/peers
    name: str
    package: str  # whose version is the server's
    ready_path: str  # answers 200 once the model serves; {model} is the model's name
    infer_path: str
    request: Callable[[np.ndarray], wire.Body]
    answer: Callable[[bytes, Mapping[str, str]], np.ndarray]
    environment: Mapping[str, str] = field(default_factory=dict)  # {scratch} is a folder that goes with the process
    needs_shared_python: bool = False  # runs the libpython that the loader finds, not its own interpreter

    @property
    def requirements(self) -> Path:
        """Everything its environment has, each in one exact version."""
        return HERE / f"{self.key}.txt"

    @property
    def server(self) -> Path:
        """The file that serves the model by it."""
        return HERE / f"{self.key}_server.py"

    @property
    def version(self) -> str:
        """As its requirements pin it."""
        pins = dict(line.split("==") for line in self.requirements.read_text().split() if "==" in line)
        return pins[self.package]

    def command(self, python: Path, port: int, model: Path) -> list[str]:
        """Starts it, from the root of this repository, for the model in a folder ``<name>/<version>``."""
        return [str(python), "-m", f"bench.peers.{self.key}_server", "--port", str(port), "--model", str(model)]

    def ready_url(self, port: int, model: Path) -> str:
        """To poll."""
        return f"http://127.0.0.1:{port}" + self.ready_path.format(model=model.parent.name)

    def load(self, x: np.ndarray, port: int, model: Path) -> Load:
        """The request for ``x``."""
        return Load(f"http://127.0.0.1:{port}" + self.infer_path.format(model=model.parent.name), *self.request(x))


PEERS = (
    Peer("litserve", "LitServe", "litserve", "/health", "/predict", wire.plain_request, wire.plain_answer),
    Peer(
        key="bentoml",
        name="BentoML",
        package="bentoml",
        ready_path="/readyz",
        infer_path="/infer",
        request=wire.plain_request,
        answer=wire.bare_answer,
        environment={"BENTOML_DO_NOT_TRACK": "true"},
    ),
    Peer(
        key="mlserver",
        name="MLServer",
        package="mlserver",
        ready_path="/v2/models/{model}/ready",
        infer_path="/v2/models/{model}/infer",
        request=wire.oip_request,
        answer=wire.oip_answer,
    ),
    Peer(
        key="ray",
        name="Ray Serve",
        package="ray",
        ready_path="/infer",  # its /-/healthz is of the proxy, before any replica serves
        infer_path="/infer",
        request=wire.plain_request,
        answer=wire.plain_answer,
        environment={
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the one switch that keeps its servers on 127.0.0.1, here too
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": "{scratch}/haproxy.sh",  # the server writes it
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "{scratch}/haproxy/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": "{scratch}/haproxy/admin.sock",
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "{scratch}/haproxy/metrics.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "{scratch}/haproxy",
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "{scratch}/haproxy/server-state",
        },
    ),
    Peer(
        key="triton",
        name="Triton (nvidia-pytriton)",
        package="nvidia-pytriton",
        ready_path="/v2/models/{model}/ready",
        infer_path="/v2/models/{model}/infer",
        request=wire.oip_binary_request,
        answer=wire.oip_answer,
        needs_shared_python=True,
    ),
)
