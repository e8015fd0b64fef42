"""``python -m export module:factory``: a model of the user's own -> an artifact, and a table of what holds."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from export.errors import ExportError
from export.example import array_as_written, read_arrays
from export.factory import load_weights, module_of
from export.held_out import Arrays
from export.user_model import MAX_ROWS, MIXED_ROWS, TOLERANCE, export_model


def export_own(arguments: Sequence[str], console: Console) -> int:
    """Export it and print the table; 1, and the reason, when it cannot be."""
    options = _options(arguments)
    try:
        model = module_of(options.factory, options.config)
        if options.checkpoint:
            load_weights(model, options.checkpoint, by_torch=options.torch_load)
        with console.status(f"exporting {options.name}"):
            export_model(
                model,
                example_of(options.example),
                options.name,
                options.repository,
                version=options.version,
                batch_axis=None if options.no_batch_axis else 0,
                outputs=options.outputs,
                max_rows=options.max_rows,
                max_shape=dict(options.max_shape),
                bounds=dict(options.bounds),
                samples=options.samples,
                data=options.data,
                tolerance=options.tolerance,
                task=options.task,
                config={"factory": options.factory, "arguments": options.config},
                console=console,
            )
    except ExportError as error:
        console.print(f"[red]{options.name} was not exported:[/red] ", end="")
        console.print(str(error), highlight=False, markup=False, soft_wrap=True)
        return 1
    return 0


def example_of(texts: Sequence[str]) -> Arrays:
    """``x=FP32[2,64]`` or a file of arrays, each. Raises ExportError."""
    example: Arrays = {}
    for text in texts:
        example |= array_as_written(text) if "=" in text else read_arrays(Path(text))
    return example


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m export",
        description="Export a model of your own, measure its certificate and print what holds, what does not and why.",
    )
    parser.add_argument(
        "factory", metavar="MODULE:FACTORY", help="what makes the module when it is called, or the module"
    )
    add_where(parser)
    parser.add_argument("--checkpoint", type=Path, help="its weights, .safetensors; default: as the factory makes it")
    parser.add_argument(
        "--torch-load", action="store_true", help="the checkpoint is read by torch.load(weights_only=True)"
    )
    parser.add_argument(
        "--config", type=json_object, default={}, metavar="JSON", help="the factory's keyword arguments"
    )
    parser.add_argument("--data", type=Path, help="more rows to measure on: a .npz or .safetensors file")
    parser.add_argument("--outputs", nargs="+", metavar="NAME", help="names of what the module returns, in order")
    parser.add_argument(
        "--max-shape",
        type=_sizes,
        action="append",
        default=[],
        metavar="x=256,512",
        help="the largest sizes of an input; default: the largest that were tried",
    )
    return parser.parse_args(arguments)


def add_where(parser: argparse.ArgumentParser) -> None:
    """What every way to an artifact asks for: its name, its example and where it goes."""
    parser.add_argument("--name", required=True, help="of the model, as clients ask for it")
    parser.add_argument(
        "--example",
        required=True,
        action="append",
        metavar="INPUT",
        help="an input: x=FP32[2,64] (drawn from N(0, 1)), ids=INT64[2,16]:0:102 (from 0 to 102, which is then what is "
        "accepted), or a .npz or .safetensors file of inputs by name; may be repeated",
    )
    parser.add_argument("--repository", type=Path, default=Path("artifacts"), help="folder of models (%(default)s)")
    parser.add_argument("--version", default="1", help="an integer (%(default)s)")
    parser.add_argument("--no-batch-axis", action="store_true", help="the inputs have no rows; nothing is merged")
    parser.add_argument("--max-rows", type=int, default=MAX_ROWS, help="in a batch (%(default)s)")
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
