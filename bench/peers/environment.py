"""Each peer in an environment of its own: their pins contradict each other's, and ours."""

import os
import subprocess
import sys
from pathlib import Path

from bench.peers.catalogue import Peer

BUILT = Path("build/peers")
SHARED_PYTHONS = ("python3.11", "python3.12", "python3")  # those that the pins of Triton's environment install on
ASK_SHARED = """
import ctypes, sys
version = ctypes.CDLL("libpython{}.{}.so.1.0".format(*sys.version_info)).Py_GetVersion
version.restype = ctypes.c_char_p
sys.exit(version().split()[0].decode() != sys.version.split()[0])
"""


class PeerError(RuntimeError):
    """A peer that cannot be installed, started or asked, and why."""


def shared_python() -> Path:
    """An interpreter on the path whose version is that of the libpython the loader finds. Raises PeerError.

    Triton runs Python models in a program of its own that is linked to libpython but takes its standard library from
    the interpreter; of two different patch releases it dies at start.
    """
    for folder in os.get_exec_path():
        for name in SHARED_PYTHONS:
            python = Path(folder) / name
            asked = [str(python), "-c", ASK_SHARED]
            if python.exists() and subprocess.run(asked, capture_output=True, check=False).returncode == 0:  # noqa: S603
                return python
    raise PeerError(
        f"none of {', '.join(SHARED_PYTHONS)} on the path is of the version of its libpython as the loader finds it;"
        " on Debian install python3.11-venv and libpython3.11, or name one by --shared-python"
    )


def is_installed(peer: Peer) -> bool:
    """Whether its environment holds what its requirements name now."""
    mark = BUILT / peer.key / "installed.txt"
    return mark.exists() and mark.read_text() == peer.requirements.read_text()


def install(peer: Peer, python: Path | None = None) -> None:
    """Make its environment anew, with ``python`` or the one that fits. Raises PeerError."""
    base = python or (shared_python() if peer.needs_shared_python else Path(sys.executable))
    folder = BUILT / peer.key
    pip = [str(interpreter(peer)), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    for command in (
        [str(base), "-m", "venv", "--clear", str(folder / "venv")],
        [*pip, "--requirement", str(peer.requirements)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0:
            raise PeerError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-500:]}")
    (folder / "installed.txt").write_text(peer.requirements.read_text())


def interpreter(peer: Peer) -> Path:
    """Of its environment."""
    return (BUILT / peer.key / "venv" / "bin" / "python").absolute()
