"""What the commands of ``python -m export`` share: their options, and how they end."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from export.errors import ExportError
from export.example import array_as_written, read_arrays
from export.held_out import Arrays
from export.user_model import MIXED_ROWS, TOLERANCE
from service.manifest import ArtifactError


def add_where(parser: argparse.ArgumentParser) -> None:
    """What every way to an artifact asks for: its name, its example and where it goes."""
    parser.add_argument("--name", required=True, help="of the model, as clients ask for it")
    parser.add_argument(
        "--example",
        required=True,
        action="extend",
        nargs="+",
        metavar="INPUT",
        help="an input: x=FP32[2,64] (drawn from N(0, 1)), ids=INT64[2,16]:0:102 (from 0 to 102, which is then what is "
        "accepted), or a .npz or .safetensors file of inputs by name; several, or repeated",
    )
    parser.add_argument("--repository", type=Path, default=Path("artifacts"), help="folder of models (%(default)s)")
    parser.add_argument("--version", default="1", help="an integer (%(default)s)")
    parser.add_argument("--no-batch-axis", action="store_true", help="the inputs have no rows; nothing is merged")
    parser.add_argument(
        "--replace", action="store_true", help="write over a version that is there; otherwise that is an error"
    )
    parser.add_argument(
        "--max-rows", type=int, help="in a batch; default: 256, or so few that a run takes half a second"
    )
    parser.add_argument(
        "--max-shape",
        type=_sizes,
        action="append",
        default=[],
        metavar="x=-1,512",
        help="the largest sizes of an input, -1 where nothing is wished; default: the largest that were tried",
    )
    parser.add_argument(
        "--samples", type=int, default=MIXED_ROWS, help="rows mixed of the example's and the data's (%(default)s)"
    )
    parser.add_argument(
        "--bounds",
        type=_bounds,
        action="append",
        default=[],
        metavar="ids=0:102",
        help="the smallest and the largest value of an input; default: integers' in the example and the data",
    )
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="of torch_onnx_parity, relative (%(default)s)"
    )
    parser.add_argument("--task", default="", help="what it is for, in words")


def wishes(options: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_where` asked for, as arguments of the function that makes the artifact. Raises ExportError."""
    return {
        "example_inputs": _example(options.example),
        "name": options.name,
        "repository": options.repository,
        "version": options.version,
        "batch_axis": None if options.no_batch_axis else 0,
        "max_rows": options.max_rows,
        "max_shape": dict(options.max_shape),
        "bounds": dict(options.bounds),
        "samples": options.samples,
        "tolerance": options.tolerance,
        "replace": options.replace,
        "task": options.task,
    }


def _example(texts: Sequence[str]) -> Arrays:
    """``x=FP32[2,64]`` or a file of arrays, each. Raises ExportError."""
    example: Arrays = {}
    for text in texts:
        example |= array_as_written(text) if "=" in text else read_arrays(Path(text))
    return example


def json_object(text: str) -> dict[str, Any]:
    """A JSON object of the command line."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text} is no JSON object")
    return found


def _sizes(text: str) -> tuple[str, list[int]]:
    name, _, sizes = text.partition("=")
    return name, [int(size) for size in sizes.split(",")]


def _bounds(text: str) -> tuple[str, tuple[float, float]]:
    name, _, bounds = text.partition("=")
    low, _, high = bounds.partition(":")
    return name, (float(low), float(high))


def ended(work: Callable[[], bool], console: Console, what: str = "failed") -> int:
    """The exit status: 0 when ``work`` says that all is well; 1 when it does not, or raises, and then the reason."""
    try:
        return 0 if work() else 1
    except (ExportError, ArtifactError) as error:
        console.print(f"[red]{what}:[/red] ", end="")
        console.print(str(error), highlight=False, markup=False, soft_wrap=True)
        return 1
