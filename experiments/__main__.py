"""``python -m experiments``: train the reference models, redraw the papers' figures, write down what was found."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from experiments import (
    batch_size,
    character_lm,
    cnn,
    depth,
    digits,
    gradient_norm,
    invariance,
    layer_dependency,
    omega_fold,
    output_change,
    recurrent,
    step_time,
)
from experiments.folders import COMMITTED, QUICK

EXPERIMENTS: dict[str, Callable[..., list[str]]] = {
    **digits.EXPERIMENTS,
    batch_size.NAME: batch_size.run,
    character_lm.NAME: character_lm.run,
    cnn.NAME: cnn.run,
    depth.NAME: depth.run,
    gradient_norm.NAME: gradient_norm.run,
    invariance.NAME: invariance.run,
    layer_dependency.NAME: layer_dependency.run,
    omega_fold.NAME: omega_fold.run,
    output_change.NAME: output_change.run,
    recurrent.NAME: recurrent.run,
    step_time.NAME: step_time.run,
}


def main(arguments: Sequence[str], console: Console) -> int:
    """Run the experiments named, or all of them, and print what each found."""
    parser = argparse.ArgumentParser("python -m experiments", description="Train the reference models on real data.")
    parser.add_argument("names", nargs="*", metavar="EXPERIMENT", help=f"{', '.join(EXPERIMENTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help=f"a small version, into {QUICK.results.parent}")
    parser.add_argument("--again", action="store_true", help="measure anew what is finished or was begun")
    parser.add_argument("--repository", type=Path, help=f"where artifacts go ({COMMITTED.artifacts})")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in EXPERIMENTS:
            parser.error(f"there is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    folders = QUICK if options.quick else COMMITTED
    if options.repository:
        folders = replace(folders, artifacts=options.repository)
    for name in options.names or EXPERIMENTS:
        if options.again:
            folders.forget(name)
        for line in EXPERIMENTS[name](folders, quick=options.quick):
            console.print(line, highlight=False)
    console.print(f"results are in {folders.results}, artifacts in {folders.artifacts}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Console()))
