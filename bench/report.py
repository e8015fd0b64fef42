"""The table and the plot that are made of the figures, and where they go."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.sections import MODELS, SWEEP, Rounds
from experiments.figures import new_figure, save_figure

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
PEERS_IN_JSON = ("LitServe", "BentoML", "MLServer")
COLOURS = {"binary": "#2471a3", "JSON, flat": "#1e8449", "naive": "#c0392b", "raw": "#7f8c8d"}


@dataclass(frozen=True)
class Line:
    """A figure and what was aimed at; ``figure`` None: it could not be measured, and ``spread`` says why."""

    what: str
    figure: float | None
    spread: str
    goal: float
    at_least: bool = True
    unit: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is."""
        if self.figure is None:
            return None
        return self.figure >= self.goal if self.at_least else self.figure <= self.goal


def values(rounds: Rounds, *keys: str) -> np.ndarray:
    """One figure of every round."""
    found = []
    for each in rounds:
        value: Any = each
        for key in keys:
            value = value[key]
        found.append(float(value))
    return np.array(found)


def line(what: str, figures: np.ndarray, goal: float, *, at_least: bool = True, unit: str = "") -> Line:
    """The median of the rounds, with the lowest and the highest."""
    spread = f"{min(figures):.3g} to {max(figures):.3g}"
    return Line(what, float(np.median(figures)), spread, goal, at_least, unit)


def lines(found: dict[str, Any]) -> list[Line]:
    """Every figure that there is a goal for."""
    table = [each for model in MODELS for each in _throughput(found, model)] + _peers(found)
    rounds = found["one_row"]
    for sent in ("x, weight, bias", "x"):
        ours, echo = (
            values(rounds, f"{name}, 16 connections", "requests_per_second") for name in (sent, f"echo of {sent}")
        )
        table.append(line(f"layer_norm of 768 ({sent}) / bare ASGI echo", ours / echo, 0.50))
    rounds = found["latency"]
    added = (values(rounds, "binary", "p50_s") - values(rounds, "raw", "p50_s")) * 1e3
    table.append(line("latency added at 1 connection, binary", added, 0.35, at_least=False, unit=" ms"))
    rounds = found["throughput"][MODELS[0]]
    for name, goal in (("binary", 150), ("JSON, flat", 500), ("JSON, nested", 500)):
        more = (values(rounds, name, "cpu_seconds") - values(rounds, "raw", "cpu_seconds")) * 1e6
        table.append(line(f"processor time over raw of a request, {name}", more, goal, at_least=False, unit=" us"))
    rounds = found["open_loop"]
    tail = values(rounds, "p99") / values(rounds, "p50")
    table.append(line("open loop at 70 % of capacity: p99 / p50", tail, 4, at_least=False))
    rounds = found["starts"]
    table.append(line("ready after start, 11 models", values(rounds, "ready_s"), 3, at_least=False, unit=" s"))
    memory = values(rounds, "resident_bytes") / 1e6
    table.append(line("resident memory then", memory, 300, at_least=False, unit=" MB"))
    table.append(_bf16(found["bf16"]))
    for name in ("binary", "JSON, flat"):
        table.append(line(f"throughput behind its peak, to 256 connections, {name}", _kept(found, name), 0.9))
    return table


def lines_beside_others(found: dict[str, Any]) -> list[Line]:
    """Those that compare this service with raw onnxruntime and with other servers, for one model."""
    return _throughput(found, MODELS[0]) + _peers(found)


def _throughput(found: dict[str, Any], model: str) -> list[Line]:
    rounds = found["throughput"][model]
    rates = {name: values(rounds, name, "requests_per_second") for name in rounds[0] if name != "raw settings"}
    return [
        line(f"{model}: binary / raw", rates["binary"] / rates["raw"], 0.90),
        line(f"{model}: flat JSON / raw", rates["JSON, flat"] / rates["raw"], 0.80),
        line(f"{model}: nested JSON / raw", rates["JSON, nested"] / rates["raw"], 0.80),
        line(f"{model}: nested JSON / naive", rates["JSON, nested"] / rates["naive"], 6.5),
    ]


def _peers(found: dict[str, Any]) -> list[Line]:
    """Beside the other servers, where these were measured. JSON of all has the digits of a float64."""
    if "peers" not in found:
        return []
    rounds, failed = found["peers"]["rounds"], found["peers"]["failed"]
    table = []
    for peer, version in found["peers"]["versions"].items():
        ours, goal = ("binary", 1.3) if "Triton" in peer else ("JSON, nested", 4.0 if peer in PEERS_IN_JSON else 1.0)
        what = f"{ours} / {peer} {version}"
        if peer in failed:
            table.append(Line(what, None, failed[peer], goal))
        else:
            table.append(line(what, values(rounds, ours) / values(rounds, peer), goal))
    return table


def _bf16(found: Rounds | str) -> Line:
    what = "OpenVINO at bf16, binary / raw fp32 on cpu"
    if isinstance(found, str):
        return Line(what, None, found, 2.8)
    return line(what, values(found, "binary") / values(found, "raw"), 2.8)


def _kept(found: dict[str, Any], name: str) -> np.ndarray:
    """The least of the throughputs behind the peak, as a share of the peak; by medians over the rounds."""
    rates = sweep(found, name, "requests_per_second")
    peak = int(np.argmax(rates))
    return np.array([rates[peak:].min() / rates[peak]])


def sweep(found: dict[str, Any], name: str, figure: str) -> np.ndarray:
    """Medians over the rounds, one for each number of connections."""
    return np.array([np.median(values(found["connections"], name, str(count), figure)) for count in SWEEP])


def markdown(table: Sequence[Line], found: dict[str, Any]) -> str:
    """The table, with date and machine."""
    rows = ["| figure | median | lowest to highest | goal |", "|---|---|---|---|"]
    for each in table:
        goal = f"{'>=' if each.at_least else '<='} {each.goal:g}{each.unit}"
        if each.figure is None:
            rows.append(f"| {each.what} | not measured | {each.spread} | {goal} |")
            continue
        mark = "" if each.reached else " (missed)"
        rows.append(f"| {each.what} | {each.figure:.3g}{each.unit}{mark} | {each.spread} | {goal} |")
    machine, config = found["machine"], found["config"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    about = (
        f"{found['date']}, {machine['processor']}, {machine['cores']} cores, which the load generator shares; "
        f"medians of {config['rounds']} rounds of {config['seconds']:g} s, all ways by turns. {versions}."
    )
    return "\n".join([about, "", *rows])


def write_between_marks(file: Path, text: str) -> None:
    """Replace what stands between the two marks. Raises ValueError when the file has not both of them."""
    before, begin, rest = file.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{file} has no {BEGIN} ... {END}")
    file.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def draw(found: dict[str, Any], folder: Path) -> Path:
    """Throughput and latency over connections, against raw and naive."""
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    raw = float(np.median(values(found["throughput"][MODELS[0]], "raw", "requests_per_second")))
    left.axhline(raw, color=COLOURS["raw"], linestyle="--", label="raw session.run, best setting")
    for name in ("binary", "JSON, flat", "naive"):
        left.plot(SWEEP, sweep(found, name, "requests_per_second"), marker="o", color=COLOURS[name], label=name)
        right.plot(SWEEP, sweep(found, name, "p50_s") * 1e3, marker="o", color=COLOURS[name], label=f"{name}, p50")
        right.plot(SWEEP, sweep(found, name, "p99_s") * 1e3, color=COLOURS[name], linestyle=":", label=f"{name}, p99")
    left.set(xscale="log", xlabel="connections", ylabel="requests a second", ylim=(0, None))
    right.set(xscale="log", yscale="log", xlabel="connections", ylabel="milliseconds")
    for axes in (left, right):
        axes.set_xticks(SWEEP, [str(count) for count in SWEEP])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 0.2))
    right.legend(fontsize=8)
    machine = found["machine"]
    caption = f"post-ln-encoder, one row of 32 x 256; {machine['processor']}, {machine['cores']} cores; {found['date']}"
    return save_figure(figure, "connections", caption, folder)
