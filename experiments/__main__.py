"""``python -m experiments``: train reference models, write their checkpoints, artifacts and results."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import digits_mlp

EXPERIMENTS: dict[str, Callable[..., dict[str, Any]]] = {"digits-mlp": digits_mlp.run}
ARTIFACTS, QUICK_ARTIFACTS = Path("artifacts"), Path("build/quick/artifacts")


def main(arguments: Sequence[str], console: Console) -> int:
    """Run the experiments named, or all of them."""
    parser = argparse.ArgumentParser("python -m experiments", description="Train the reference models on real data.")
    parser.add_argument("names", nargs="*", metavar="EXPERIMENT", help=f"{', '.join(EXPERIMENTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help=f"a small version, into {QUICK_ARTIFACTS}")
    parser.add_argument("--repository", type=Path, help=f"where artifacts go ({ARTIFACTS})")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in EXPERIMENTS:
            parser.error(f"there is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    repository = options.repository or (QUICK_ARTIFACTS if options.quick else ARTIFACTS)
    for name in options.names or EXPERIMENTS:
        results = EXPERIMENTS[name](repository, quick=options.quick)
        for model, figures in results["models"].items():
            console.print(f"{model}: held-out accuracy {figures['accuracy']:.4f}, NLL {figures['nll']:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Console()))
