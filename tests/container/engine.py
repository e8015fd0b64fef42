"""The Docker engine that answers, by its command line, and Compose projects with names and settings of their own."""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.waiting import until

ROOT = Path(__file__).parents[2]
IMAGE = "normserve-test"  # not the tag of an image that is in use here
MEASURED: dict[str, str] = {}  # shown when the tests are over
STANDIN_BASE = os.environ.get("CONTAINER_STANDIN_BASE") == "1"


def command(*arguments: str | Path, **environment: str) -> str:
    """What it says on standard output. Raises AssertionError with all it said when it fails."""
    done = subprocess.run(arguments, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def docker(*arguments: str | Path) -> str:
    return command("docker", *arguments)


def inspected(container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", container))[0]
    return found


def removed(container: str) -> None:
    """Whether it is still there or not."""
    subprocess.run(["docker", "rm", "--force", "--volumes", container], capture_output=True)


def address_of(container: str) -> str:
    """Where its port is published on this machine."""
    return f"http://{docker('port', container, '8000/tcp').splitlines()[0]}"


def run_inside(container: str, code: str) -> str:
    """Python code, as the user and with the environment that the container's process has."""
    return docker("exec", container, "/opt/venv/bin/python", "-c", code)


def is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/v2/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def container(*options: str, flags: Sequence[str] = ()) -> Iterator[str]:
    """One of the image, on a free port, and ready."""
    name = docker("run", "--detach", "--publish", "127.0.0.1::8000", *options, IMAGE, *flags)
    try:
        address = address_of(name)
        until(lambda: is_ready(address) or not inspected(name)["State"]["Running"], "the container serves")
        assert inspected(name)["State"]["Running"], docker("logs", name)
        yield name
    finally:
        removed(name)


class Project:
    """``docker compose`` on our file, with names, a free port and settings of its own."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.file = folder / "settings.env"
        self.set(**settings)
        self.name = f"normserve-{uuid4().hex[:8]}"
        self.environment = {"COMPOSE_PROJECT_NAME": self.name, "IMAGE": IMAGE, "PORT": "", "SETTINGS": str(self.file)}

    def set(self, **settings: str) -> None:
        """The service's, for containers that are started from now on."""
        self.file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def __call__(self, *arguments: str, **environment: str) -> str:
        return command("docker", "compose", *arguments, **self.environment | environment)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The same, going on meanwhile."""
        return subprocess.Popen(
            ["docker", "compose", *arguments],
            cwd=ROOT,
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def configuration(self, **environment: str) -> dict[str, Any]:
        """With every profile, as Compose understands it."""
        found: dict[str, Any] = json.loads(self("--profile", "*", "config", "--format", "json", **environment))
        return found

    def containers(self, service: str) -> list[str]:
        return self("ps", "--quiet", service).split()

    def down(self) -> None:
        self("--profile", "*", "down", "--volumes", "--timeout", "1")
