"""One peer: installed, started, asked, and loaded."""

from pathlib import Path

import numpy as np

from bench.load import loaded
from bench.peers.catalogue import Peer
from bench.peers.environment import PeerError, install, is_installed
from bench.peers.process import ask, serving
from bench.ways import ATOL, RTOL

PORT = 8461  # and the next, where MLServer has its gRPC
WARM_SECONDS = 2


def prepare(peer: Peer, shared_python: Path | None = None) -> None:
    """Install it, if it is not. Raises PeerError."""
    if not is_installed(peer):
        install(peer, shared_python if peer.needs_shared_python else None)


def measure(peer: Peer, x: np.ndarray, wanted: np.ndarray, model: Path, *, connections: int, seconds: float) -> float:
    """Requests a second, after it answered one as onnxruntime does. Raises PeerError, or RuntimeError of wrk."""
    load = peer.load(x, PORT, model)
    with serving(peer, PORT, model):
        y = ask(peer, load)
        if y.shape != wanted.shape or not np.allclose(y, wanted, rtol=RTOL, atol=ATOL):
            raise PeerError(
                f"does not answer as onnxruntime does: {y.shape}, {y.ravel()[:3]}, not {wanted.ravel()[:3]}"
            )
        loaded(load, connections=connections, seconds=WARM_SECONDS)
        return loaded(load, connections=connections, seconds=seconds).requests_per_second
