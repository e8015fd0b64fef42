"""The image is built once; what needs a Docker engine is skipped where none answers."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from tests.container.engine import IMAGE, MEASURED, Project, command, docker


@pytest.fixture(scope="session")
def engine() -> None:
    """One that answers, with Compose."""
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command")
    for part in (["info"], ["compose", "version"]):
        done = subprocess.run(["docker", *part], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"docker {' '.join(part)}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")


@pytest.fixture(scope="session")
def image(engine: None) -> Iterator[str]:
    """As ``make image`` builds it."""
    began = monotonic()
    command("make", "image", f"IMAGE={IMAGE}")
    MEASURED["build"] = f"{monotonic() - began:.0f} s, with whatever was cached"
    yield IMAGE
    docker("rmi", "--force", IMAGE, *docker("image", "ls", "--quiet", f"{IMAGE}-load").split())


@pytest.fixture(scope="session")
def service(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The container of ``docker compose up --wait`` with default settings."""
    project = Project(tmp_path_factory.mktemp("compose"))
    try:
        project("up", "--wait")
        (container,) = project.containers("normserve")
        yield container
    finally:
        project.down()


@pytest.fixture
def project(image: str, tmp_path: Path) -> Iterator[Project]:
    """Not up yet; a container of it drains in a second."""
    project = Project(tmp_path, NORMSERVE_DRAIN_SECONDS="1")
    try:
        yield project
    finally:
        project.down()


@pytest.fixture(scope="session")
def history(image: str) -> list[dict[str, str]]:
    """The image's layers, newest first."""
    said = docker("history", "--no-trunc", "--human=false", "--format", "{{json .}}", image)
    return [json.loads(line) for line in said.splitlines()]
