"""``python -m bench.scale``: from what one request costs to the machines that many of them take. docs/scale.md has it.

Costs are measured (``--measure``, bench/results/scale.json). What else is needed is assumed, and can be given: the
defaults are round numbers of common machines, no advice.
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench.costs import A_CONNECTION_EACH, CONNECTIONS, ENCODER, measure
from bench.report import write_between_marks
from bench.sections import SHAPE, Effort
from experiments.results import read_results, write_results

RESULTS, PAGE = Path("bench/results"), Path("docs/scale.md")
RATES = (1_000, 100_000, 10_000_000)
SEGMENT_BYTES = 1448  # of a TCP segment on Ethernet, time stamps in its head
FRAME_BYTES = 90  # TCP 32, IP 20, Ethernet 18, and 20 between two frames
WITHOUT_NEW_CONNECTIONS = ("binary", "JSON")


@dataclass(frozen=True)
class Assumptions:
    """What is not measured here."""

    busy: float = 0.6  # share of its time that a core works: with one of three zones gone the others are at 0.9
    replica_cores: int = 2  # of a pod, as in deploy/kubernetes
    machine_cores: int = 60  # for pods, of 64: the others are for the kubelet, the network and the logs
    machine_gbit: float = 25.0  # each way
    core_hour_price: float | None = None  # your own, in your money


@dataclass(frozen=True)
class Accelerator:
    """Figures of a data sheet, and how much of them is believed. One H100 SXM, dense."""

    fp32_flops: float = 67e12
    bus_bytes_per_second: float = 64e9  # PCIe 5 x16, each way
    believed: float = 0.3  # small batches of small matrices reach no more, and often less


@dataclass(frozen=True)
class Cost:
    """Of one request, medians over the rounds."""

    workload: str
    form: str
    cpu_seconds: float
    loop_seconds: float
    request_bytes: int
    answer_bytes: int


@dataclass(frozen=True)
class Need:
    """What so many requests a second take. gbit: in, out."""

    cores: float
    replicas: int
    machines: int
    gbit: tuple[float, float]
    packets: float
    limit: str


def costs(found: dict[str, Any]) -> list[Cost]:
    """Of everything that was measured."""
    return [
        Cost(
            workload,
            form,
            float(np.median([each["cpu_seconds"] for each in figures["rounds"]])),
            float(np.median([each["loop_seconds"] for each in figures["rounds"]])),
            figures["request_bytes"],
            figures["answer_bytes"],
        )
        for workload, forms in found["costs"].items()
        for form, figures in forms.items()
    ]


def packets(size: int) -> int:
    """Of a message in one direction; acknowledgements not counted."""
    return math.ceil(size / SEGMENT_BYTES)


def on_the_wire(size: int) -> int:
    """Bytes of a message with everything around it."""
    return size + packets(size) * FRAME_BYTES


def need(cost: Cost, rate: float, assumed: Assumptions) -> Need:
    """Linear in the rate: no part of a request is shared between machines."""
    cores = rate * cost.cpu_seconds / assumed.busy
    replicas = math.ceil(cores / assumed.replica_cores)
    gbit = tuple(rate * on_the_wire(size) * 8 / 1e9 for size in (cost.request_bytes, cost.answer_bytes))
    by_cores = replicas * assumed.replica_cores / assumed.machine_cores
    by_network = max(gbit) / (assumed.busy * assumed.machine_gbit)
    event_loop = cost.loop_seconds > cost.cpu_seconds / 2
    limit = "network" if by_network > by_cores else "event loop" if event_loop else "computing"
    both_ways = packets(cost.request_bytes) + packets(cost.answer_bytes)
    machines = math.ceil(max(by_cores, by_network))
    return Need(cores, replicas, machines, (gbit[0], gbit[1]), rate * both_ways, limit)


def encoder_flops(tokens: int, d_model: int, d_ff: int, n_layers: int) -> float:
    """Of one sequence: four projections, two products of attention, two layers of the feed-forward; 2 a product."""
    projections = 2 * tokens * (4 * d_model**2 + 2 * d_model * d_ff)
    attention = 2 * 2 * tokens**2 * d_model
    return float(n_layers * (projections + attention))


def flops() -> dict[str, float]:
    """Of one request of each workload."""
    return {
        "layer_norm": 8.0 * 768,  # two sums, a difference, a square, a product, weight and bias
        "ln-mlp-digits": 2.0 * (64 * 256 + 256 * 256 + 256 * 10),
        ENCODER: encoder_flops(SHAPE[1], SHAPE[2], 1024, 6),
    }


def tensor_bytes() -> dict[str, int]:
    """That a request takes to the accelerator and back, the larger way."""
    return {"layer_norm": 3 * 768 * 4, "ln-mlp-digits": 64 * 4, ENCODER: SHAPE[1] * SHAPE[2] * 4}


def measured_table(found: dict[str, Any], assumed: Assumptions) -> list[str]:
    """What each request costs."""
    priced = assumed.core_hour_price is not None
    rows = [
        "| request | form | processor | of it event loop | a busy core | bytes in | out | core-hours a million |"
        + (" price |" if priced else ""),
        "|---|---|---|---|---|---|---|---|" + ("---|" if priced else ""),
    ]
    for cost in costs(found):
        hours = cost.cpu_seconds / assumed.busy * 1e6 / 3600
        rows.append(
            f"| `{cost.workload}` | {cost.form} | {_rounded(cost.cpu_seconds * 1e6)} us "
            f"| {min(1, cost.loop_seconds / cost.cpu_seconds):.0%} | {_rounded(1 / cost.cpu_seconds)}/s "
            f"| {cost.request_bytes} | {cost.answer_bytes} | {_rounded(hours)} |"
            + (f" {_rounded(hours * (assumed.core_hour_price or 0))} |" if priced else "")
        )
    return rows


def scaled_table(found: dict[str, Any], assumed: Assumptions) -> list[str]:
    """What many take."""
    rows = [
        "| requests/s | request | form | cores | replicas | machines | Gbit/s in | out | packets/s | what limits |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for rate in RATES:
        for cost in costs(found):
            if cost.form in WITHOUT_NEW_CONNECTIONS:
                it = need(cost, rate, assumed)
                into, out = map(_rounded, it.gbit)
                rows.append(
                    f"| {_rounded(rate)} | `{cost.workload}` | {cost.form} | {_rounded(it.cores)} "
                    f"| {_rounded(it.replicas)} | {_rounded(it.machines)} | {into} | {out} "
                    f"| {_rounded(it.packets)} | {it.limit} |"
                )
    return rows


def accelerator_table(found: dict[str, Any], accelerator: Accelerator) -> list[str]:
    """An estimate: what an accelerator could compute, and the cores that reading and writing for it would take."""
    rows = [
        "| request | FLOP | FLOP a byte | it could compute | its bus could carry | cores to feed it, binary | JSON |",
        "|---|---|---|---|---|---|---|",
    ]
    loops = {(cost.workload, cost.form): cost.loop_seconds for cost in costs(found)}
    for workload, work in flops().items():
        moved = tensor_bytes()[workload]
        computed = accelerator.believed * accelerator.fp32_flops / work
        carried = accelerator.believed * accelerator.bus_bytes_per_second / moved
        rate = min(computed, carried)
        fed = [_rounded(rate * loops[workload, form]) for form in WITHOUT_NEW_CONNECTIONS]
        figures = [_rounded(work), _rounded(work / moved), f"{_rounded(computed)}/s", f"{_rounded(carried)}/s", *fed]
        rows.append(f"| `{workload}` | {' | '.join(figures)} |")
    return rows


def new_connection(found: dict[str, Any]) -> str:
    """What a connection of its own adds to a request."""
    by_form = {(cost.workload, cost.form): cost.cpu_seconds for cost in costs(found)}
    parts = [  # beside what an encoder computes it is lost in the noise
        f"`{workload}` {_rounded((by_form[workload, A_CONNECTION_EACH] - by_form[workload, 'binary']) * 1e6)} us"
        for workload in found["costs"]
        if workload != ENCODER
    ]
    return f"A new connection for each request adds, in processor time of the service: {', '.join(parts)}."


def elsewhere(http: dict[str, Any]) -> str:
    """What ``make bench`` found of the same requests, mostly on another day and machine: so far do figures carry."""
    by_form = {
        form: np.median([each[name]["cpu_seconds"] for each in http["throughput"][ENCODER]])
        for form, name in (("binary", "binary"), ("JSON", "JSON, flat"))
    }
    # Its event loop has nothing to wait for, so one request takes what there is of them in a second.
    row = np.median([each["x, weight, bias, 16 connections"]["requests_per_second"] for each in http["one_row"]])
    said = f"`{ENCODER}` " + ", ".join(f"{form} {_rounded(cost * 1e6)} us" for form, cost in by_form.items())
    machine = http["machine"]["processor"]
    return (
        f"By bench/results/http.json ({http['date']}, {machine}): {said}; `layer_norm` binary {_rounded(1e6 / row)} us."
    )


def markdown(found: dict[str, Any], http: dict[str, Any], assumed: Assumptions, accelerator: Accelerator) -> str:
    """Everything, as the page has it."""
    machine, config = found["machine"], found["config"]
    about = (
        f"Measured {found['date']}: {machine['processor']}, {machine['cores']} cores, which the load generator shares; "
        f"{CONNECTIONS} connections, one worker, medians of {config['rounds']} rounds of {config['seconds']:g} s. "
        f"Load average of the machine when it began: {config['load_average']:.1f}."
    )
    supposed = (
        f"Assumed: cores busy {assumed.busy:.0%} of the time, replicas of {assumed.replica_cores} cores, machines of "
        f"{assumed.machine_cores} cores for pods and {assumed.machine_gbit:g} Gbit/s each way, as busy as the cores."
    )
    believed = (
        f"Estimated, not measured: {accelerator.believed:.0%} of {accelerator.fp32_flops / 1e12:g} TFLOP/s (fp32) and "
        f"of {accelerator.bus_bytes_per_second / 1e9:g} GB/s each way (PCIe 5 x16), an H100's by its data sheet."
    )
    blocks = [
        [about],
        measured_table(found, assumed),
        [elsewhere(http)],
        [new_connection(found)],
        [supposed],
        scaled_table(found, assumed),
        [believed],
        accelerator_table(found, accelerator),
    ]
    return "\n\n".join("\n".join(block) for block in blocks)


def _rounded(number: float) -> str:
    """To two digits, with thousands apart: no more is known."""
    if number == 0:
        return "0"
    after_the_point = 1 - math.floor(math.log10(abs(number)))
    rounded = round(number, after_the_point)
    return f"{rounded:,.{max(0, after_the_point) if rounded % 1 else 0}f}".replace(",", " ")


def main(arguments: Sequence[str]) -> int:
    """0 when there was something to print."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--measure", action="store_true", help="measure the costs anew (minutes), and write the page")
    parser.add_argument("--rounds", type=int, default=5, help="of --measure (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each form in a round (2)")
    parser.add_argument("--write", action="store_true", help="write the page's tables, by the default assumptions")
    standard = Assumptions()
    parser.add_argument("--busy", type=float, default=standard.busy, help="share of its time that a core works")
    parser.add_argument("--replica-cores", type=int, default=standard.replica_cores, help="of a pod")
    parser.add_argument("--machine-cores", type=int, default=standard.machine_cores, help="of a machine, for pods")
    parser.add_argument("--machine-gbit", type=float, default=standard.machine_gbit, help="of a machine, each way")
    parser.add_argument("--core-hour-price", type=float, help="what an hour of a core costs you; none is assumed")
    options = parser.parse_args(arguments)
    assumed = Assumptions(
        options.busy, options.replica_cores, options.machine_cores, options.machine_gbit, options.core_hour_price
    )
    console = Console(soft_wrap=True, highlight=False)
    if options.measure:
        remeasure(Effort(options.rounds, options.seconds), console)
    found, http = read_results("scale", RESULTS), read_results("http", RESULTS)
    if not found:
        console.print("nothing has been measured yet: python -m bench.scale --measure")
        return 1
    if options.measure or options.write:
        write_between_marks(PAGE, markdown(found, http, standard, Accelerator()))
    console.print(markdown(found, http, assumed, Accelerator()), markup=False)
    return 0


def remeasure(effort: Effort, console: Console) -> None:
    """Write bench/results/scale.json."""
    load = os.getloadavg()[0]  # others that compute meanwhile make each request dearer, by the caches they share
    with console.status("measuring") as status:
        found = measure(effort, lambda text: status.update(text))
    config = {"rounds": effort.rounds, "seconds": effort.seconds, "load_average": load}
    write_results("scale", {"date": f"{datetime.now(UTC):%Y-%m-%d}", "config": config, "costs": found}, RESULTS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
