"""``python -m export module:factory``: a model of the user's own -> an artifact, and a table of what holds."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from export.command import add_where, ended, json_object, wishes
from export.factory import load_weights, module_of
from export.precision import PRECISIONS
from export.user_model import export_model


def export_own(arguments: Sequence[str], console: Console) -> int:
    """Export it and print the table; 1, and the reason, when it cannot be."""
    options = _options(arguments)

    def exported() -> bool:
        model = module_of(options.factory, options.config)
        if options.checkpoint:
            load_weights(model, options.checkpoint, by_torch=options.torch_load)
        with console.status(f"exporting {options.name}"):
            export_model(
                model,
                **wishes(options),
                outputs=options.outputs,
                data=options.data,
                precision=options.precision,
                config={"factory": options.factory, "arguments": options.config},
                console=console,
            )
        if not options.checkpoint:
            console.print("note: no --checkpoint was given, the weights are those that the factory makes")
        return True

    return ended(exported, console, f"{options.name} was not exported")


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
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="store the weights so; the certificate says what it costs; default: as they are",
    )
    parser.add_argument("--outputs", nargs="+", metavar="NAME", help="names of what the module returns, in order")
    return parser.parse_args(arguments)
