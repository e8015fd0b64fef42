"""``python -m bench.peers``: installs each peer, asks it once, and loads it for some seconds."""

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.peers.catalogue import PEERS
from bench.peers.contract import open_session
from bench.peers.environment import is_installed
from bench.peers.measure import measure, prepare

MODEL = Path("build/bench/models/post-ln-encoder/1")
CONNECTIONS, SECONDS = 16, 3


def main() -> int:
    """Every peer or those named, one after the other; 1 when one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(peer.key for peer in PEERS)}; all")
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of model.onnx: <name>/<version>")
    parser.add_argument(
        "--shared-python", type=Path, help="for Triton; default: one on the path that fits its libpython"
    )
    given = parser.parse_args()
    if unknown := set(given.peers) - {peer.key for peer in PEERS}:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    if not (given.model / "model.onnx").exists():
        parser.error(f"no model.onnx in {given.model}; `make bench-peers` exports it")
    x = np.random.default_rng(0).standard_normal((1, 32, 256)).astype("f4")
    (wanted,) = open_session(given.model).run(None, {"x": x})
    console, failed = Console(), False
    table = Table("server", "version", "requests/s")
    for peer in PEERS:
        if given.peers and peer.key not in given.peers:
            continue
        try:
            if not is_installed(peer):
                console.print(f"{peer.name} {peer.version}: installing")
            prepare(peer, given.shared_python)
            console.print(f"{peer.name} {peer.version}: measuring")
            found = f"{measure(peer, x, wanted, given.model, connections=CONNECTIONS, seconds=SECONDS):.0f}"
        except (RuntimeError, OSError) as error:  # PeerError and wrk's are RuntimeErrors
            found, failed = f"failed: {error}", True
        table.add_row(peer.name, peer.version, found)
    console.print(f"{given.model}, a row a request, {CONNECTIONS} connections:", table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
