"""``python -m bench``: measure everything, print the table, and write it, the figures and the plot down."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import sections
from bench.report import Line, draw, lines, lines_beside_others, markdown, write_between_marks
from bench.sections import MODELS, Effort
from experiments.results import read_results, write_results

RESULTS = Path("bench/results")
UNFINISHED = Path("build/bench/sections.json")
SECTIONS = ("throughput", "peers", "one_row", "latency", "connections", "open_loop", "starts", "bf16")
PAGES = {Path("README.md"): lines_beside_others, Path("docs/performance.md"): lines}
VERSIONS = ("onnxruntime", "uvicorn", "uvloop", "httptools", "orjson", "pysimdjson", "fastapi")


def main(arguments: Sequence[str]) -> int:
    """0 when everything was measured, whatever came of it."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each section (5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="that each way takes in a round (3)")
    parser.add_argument("--peers", action="store_true", help="the other servers too; installs them into build/peers")
    parser.add_argument("--only", choices=SECTIONS, help="measure one section and print its figures")
    parser.add_argument("--resume", action="store_true", help="go on behind the last section that was finished")
    parser.add_argument("--print", action="store_true", help="print the last results again, measure nothing")
    options = parser.parse_args(arguments)
    console = Console()
    if options.print:
        show(lines(read_results("http", RESULTS)), console)
        return 0
    effort = Effort(options.rounds, options.seconds)
    wanted = [options.only] if options.only else [name for name in SECTIONS if name != "peers" or options.peers]
    begun = json.loads(UNFINISHED.read_text()) if options.resume and UNFINISHED.exists() else {}
    with console.status("exporting the encoders") as status:
        sections.export_models()
        found = measure(effort, lambda text: status.update(text), wanted, begun)
    if options.only:
        console.print_json(data=found)
        return 0
    about = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "config": {"rounds": effort.rounds, "seconds": effort.seconds}}
    write_results("http", {**about, **found}, RESULTS, {name: version(name) for name in VERSIONS})
    results = read_results("http", RESULTS)
    show(lines(results), console)
    for page, lines_of in PAGES.items():
        write_between_marks(page, markdown(lines_of(results), results))
    console.print(f"the plot is {draw(results, Path('docs/figures'))}")
    return 0


def measure(effort: Effort, say: sections.Say, wanted: Sequence[str], found: dict[str, object]) -> dict[str, object]:
    """The sections that are wanted and not yet found, each written down as soon as it is there."""
    first = MODELS[0]
    ways: dict[str, Callable[[], object]] = {
        "throughput": lambda: {model: sections.throughput(model, effort, say) for model in MODELS},
        "peers": lambda: sections.peers(first, effort, say),
        "one_row": lambda: sections.one_row_of_layer_norm(effort, say),
        "latency": lambda: sections.latency(first, effort, say),
        "connections": lambda: sections.connections(first, effort, say),
        "open_loop": lambda: sections.open_loop(first, effort, say),
        "starts": lambda: sections.starts(effort, say),
        "bf16": lambda: sections.bf16(first, effort, say),
    }
    for name, way in ways.items():
        if name in wanted and name not in found:
            found[name] = way()
            UNFINISHED.write_text(json.dumps(found))
    return found


def show(table: Sequence[Line], console: Console) -> None:
    """The goals, and what was reached."""
    printed = Table("figure", "median", "lowest to highest", "goal")
    for each in table:
        goal = f"{'>=' if each.at_least else '<='} {each.goal:g}{each.unit}"
        median = "not measured" if each.figure is None else f"{each.figure:.3g}{each.unit}"
        colour = {True: "green", False: "red", None: "yellow"}[each.reached]
        printed.add_row(each.what, f"[{colour}]{median}", each.spread, goal)
    console.print(printed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
