"""The settings of ``make load``, checked before anything is sent."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from typing import Any

from bench.oip import BINARY, JSON, LoadError, Wanted, server_url


@dataclass(frozen=True)
class LoadSettings:
    """Who is to be asked for what, by how many, and for how long."""

    url: str
    wanted: Wanted
    users: int
    seconds: int
    rate: float | None
    compares: bool
    report: str | None


def add_settings(parser: ArgumentParser) -> None:
    """Those that Locust does not know itself; as text, so that ``load_settings`` can say what is allowed."""
    parser.prog = "make load"  # what Locust finds wrong begins as what we find wrong
    parser.add_argument("--model", default="ln-mlp-digits", help="MODEL: its name. Load only servers of your own.")
    parser.add_argument("--batch", help="BATCH: rows of a request, 1 or more (1)")
    parser.add_argument("--length", help="LENGTH: every other size that the model leaves open, 1 or more (16)")
    parser.add_argument("--rate", help="RATE: requests a second of all users together (as many as are answered)")
    parser.add_argument("--format", help="FORMAT: binary or json (binary where the server says that it has it)")
    parser.add_argument("--check", default="yes", help="CHECK: yes or no; compare each answer's bits with the first's")
    parser.add_argument("--parameters", help='PARAMETERS: of the request, as JSON, such as {"num_groups": 4}')


def load_settings(options: Namespace) -> LoadSettings:
    """Ours and Locust's own. Raises LoadError that names the setting, its value and what is allowed."""
    if not options.run_time:  # Locust runs for ever then
        raise LoadError(f"SECONDS={options.run_time} must be a whole number, 1 or more")
    return LoadSettings(
        url=server_url(options.host or ""),
        wanted=Wanted(
            model=options.model,
            rows=_whole_number("BATCH", options.batch),
            length=_whole_number("LENGTH", options.length),
            wire_format=_one_of("FORMAT", options.format, (BINARY, JSON)),
            parameters=_object("PARAMETERS", options.parameters),
        ),
        users=_whole_number("USERS", str(options.num_users)) or 1,
        seconds=options.run_time,
        rate=_positive("RATE", options.rate),
        compares=_one_of("CHECK", options.check, ("yes", "no")) == "yes",
        report=options.html_file,
    )


def _whole_number(setting: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise LoadError(f"{setting}={text} must be a whole number, 1 or more")
    return int(text)


def _positive(setting: str, text: str | None) -> float | None:
    try:
        value = None if text is None else float(text)
    except ValueError:
        value = 0.0
    if value is not None and not 0 < value < float("inf"):
        raise LoadError(f"{setting}={text} must be a number of more than 0")
    return value


def _one_of(setting: str, text: str | None, allowed: tuple[str, ...]) -> str | None:
    if text is not None and text not in allowed:
        raise LoadError(f"{setting}={text} must be {' or '.join(allowed)}")
    return text


def _object(setting: str, text: str | None) -> dict[str, Any]:
    try:
        value = {} if text is None else json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise LoadError(f'{setting}={text} must be a JSON object, such as {{"num_groups": 4}}')
    return value
