"""``python -m bench``: measure everything, print the table, and write it, the figures and the plot down."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import sections
from bench.report import Line, draw, lines, markdown, write_between_marks
from bench.sections import MODELS, Effort
from experiments.results import read_results, write_results

RESULTS = Path("bench/results")
PAGES = (Path("README.md"), Path("docs/performance.md"))
VERSIONS = ("onnxruntime", "uvicorn", "uvloop", "httptools", "orjson", "pysimdjson", "fastapi")


def main(arguments: Sequence[str]) -> int:
    """0 when everything was measured, whatever came of it."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each section (5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="that each way takes in a round (3)")
    parser.add_argument("--peers", action="store_true", help="the other servers too; installs them into build/peers")
    parser.add_argument("--only", help="one section: measure it, print its figures, write nothing")
    parser.add_argument("--print", action="store_true", help="print the last results again, measure nothing")
    options = parser.parse_args(arguments)
    console = Console()
    if options.print:
        show(lines(read_results("http", RESULTS)), console)
        return 0
    effort = Effort(options.rounds, options.seconds)
    with console.status("exporting the encoders") as status:
        sections.export_models()
        found = measure(effort, lambda text: status.update(text), options.only, with_peers=options.peers)
    if options.only:
        console.print_json(data=found)
        return 0
    about = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "config": {"rounds": effort.rounds, "seconds": effort.seconds}}
    write_results("http", {**about, **found}, RESULTS, {name: version(name) for name in VERSIONS})
    results = read_results("http", RESULTS)
    table = lines(results)
    show(table, console)
    for page in PAGES:
        write_between_marks(page, markdown(table, results))
    console.print(f"the plot is {draw(results, Path('docs/figures'))}")
    return 0


def measure(
    effort: Effort, say: sections.Say, only: str | None = None, *, with_peers: bool = False
) -> dict[str, object]:
    """Every section by its name, or one of them."""
    found: dict[str, object] = {}

    def wanted(name: str) -> bool:
        return only in (None, name)

    if wanted("throughput"):
        found["throughput"] = {model: sections.throughput(model, effort, say) for model in MODELS}
    if with_peers and wanted("peers"):
        found["peers"] = sections.peers(MODELS[0], effort, say)
    if wanted("one_row"):
        found["one_row"] = sections.one_row_of_layer_norm(effort, say)
    if wanted("latency"):
        found["latency"] = sections.latency(MODELS[0], effort, say)
    if wanted("connections"):
        found["connections"] = sections.connections(MODELS[0], effort, say)
    if wanted("open_loop"):
        found["open_loop"] = sections.open_loop(MODELS[0], effort, say)
    if wanted("starts"):
        found["starts"] = sections.starts(effort, say)
    if wanted("bf16"):
        found["bf16"] = sections.bf16(MODELS[0], effort, say)
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
