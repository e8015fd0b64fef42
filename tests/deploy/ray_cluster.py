"""deploy/ray on a cluster of two nodes, which are processes of this machine: the real commands, the real service."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from bench.ray_nodes import ON_LOOPBACK
from bench.servers import free_port
from tests.waiting import PATIENCE_S, until

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy" / "ray" / "serve.yaml"
REPLICA = "ray::ServeReplica:normserve"


@dataclass(frozen=True)
class Nodes:
    """The head first; each has a proxy and a replica of its own. deploy: another text of serve.yaml, from now on."""

    raylets: tuple[psutil.Process, ...]
    addresses: tuple[str, ...]
    deploy: Callable[[str], None]

    def processes(self, node: int) -> list[psutil.Process]:
        try:
            return [self.raylets[node], *self.raylets[node].children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def replicas(self, node: int) -> list[psutil.Process]:
        found = []
        for process in self.processes(node):
            with suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).startswith(REPLICA):
                    found.append(process)
        return found


def is_ready(address: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{address}/v2/health/ready").status_code == 200
    return False


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """serve.yaml deployed on them, on ports of the test's own."""
    ports = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        config = Path(scratch) / "serve.yaml"
        environment = (
            os.environ
            | ON_LOOPBACK
            | {
                "HOME": scratch,
                "TMPDIR": scratch,
                "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",  # or the head would ask its own replica alone
                "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(ports[1]),  # on two machines both would be the same
            }
        )
        python, log = Path(sys.executable), (Path(scratch) / "log").open("w+")
        started = subprocess.Popen(
            [python, "-m", "bench.ray_nodes"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        family: list[psutil.Process] = []
        try:
            assert started.stdout is not None
            said = json.loads(next((line for line in started.stdout if line.startswith("{")), "null"))
            assert said, Path(log.name).read_text()

            def deploy(text: str) -> None:
                config.write_text(text.replace("port: 8000", f"port: {ports[0]}"))
                serve = [python.parent / "serve", "run", "--non-blocking", "--address", said["address"], config]
                done = subprocess.run(
                    serve, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
                )
                assert done.returncode == 0, done.stderr

            deploy(CONFIG.read_text())
            nodes = Nodes(
                tuple(map(psutil.Process, said["raylets"])), tuple(f"http://127.0.0.1:{port}" for port in ports), deploy
            )
            until(lambda: all(map(is_ready, nodes.addresses)))
            yield nodes
        finally:
            family = psutil.Process(started.pid).children(recursive=True)
            started.kill()
            started.communicate()
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, PATIENCE_S)
            log.close()
