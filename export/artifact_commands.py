"""``python -m export check``, ``diff`` and ``adopt``: of artifacts that are there, and graphs that are."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from export.adoption import adopt_model
from export.command import add_where, ended, json_object, wishes
from export.comparison import compare
from export.folder import read_artifact, versions_of
from export.verification import verify


def check(arguments: Sequence[str], console: Console) -> int:
    """0 when every claim that held at export holds, of those that can be measured; else 1."""
    parser = argparse.ArgumentParser(
        "python -m export check",
        description="Measure an artifact's certificate again, by torch too where its module can be had. Without torch: "
        "python -m service check.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR/MODEL", help="a model's folder, or a version's")
    parser.add_argument("--factory", metavar="MODULE:FACTORY", help="what makes its module")
    parser.add_argument("--config", type=json_object, metavar="JSON", help="the factory's keyword arguments")
    parser.add_argument(
        "--recorded", action="store_true", help="run the factory that the manifest names; only of artifacts you trust"
    )
    options = parser.parse_args(arguments)

    def checked() -> bool:
        holds = True
        for folder in versions_of(options.folder):
            recorded = read_artifact(folder).manifest.config if options.recorded else {}
            factory = options.factory or recorded.get("factory")
            given = options.config if options.config is not None else recorded.get("arguments", {})
            holds &= verify(folder, factory, given, console)
        return holds

    return ended(checked, console)


def diff(arguments: Sequence[str], console: Console) -> int:
    """1 when a claim that holds of the first does not hold of the second, or they cannot be compared; else 0."""
    parser = argparse.ArgumentParser(
        "python -m export diff",
        description="Compare what two artifacts answer to the same inputs, how fast, and which claims hold.",
    )
    parser.add_argument("one", type=Path, metavar="A", help="a version's folder, or a model's: its highest version")
    parser.add_argument("other", type=Path, metavar="B", help="the same")
    options = parser.parse_args(arguments)
    return ended(lambda: not compare(options.one, options.other, console).lost, console)


def adopt(arguments: Sequence[str], console: Console) -> int:
    """1, and the reason, when the graph cannot be served."""
    parser = argparse.ArgumentParser(
        "python -m export adopt",
        description="Make an artifact of an ONNX file that was made elsewhere, with the claims that need no torch.",
    )
    parser.add_argument("graph", type=Path, metavar="MODEL.onnx", help="with what external data it has beside it")
    add_where(parser)
    options = parser.parse_args(arguments)

    def adopted() -> bool:
        adopt_model(options.graph, **wishes(options), console=console)
        return True

    return ended(adopted, console)
