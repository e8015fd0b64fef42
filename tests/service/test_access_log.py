"""A line of the log of requests."""

import json

import pytest

from service.access_log import access_log, fields_of
from service.record import Record, Run

SCOPE = {"method": "POST", "raw_path": b"/v2", "path": "/v2", "normserve.request_id": b"mine"}


def test_what_there_was_not_is_null_in_json_and_left_out_of_text() -> None:
    lines: list[str] = []
    record = Record(1.0, ended=1.5, status=None)
    for log_format in ("text", "json"):
        access_log(log_format, lines.append)(SCOPE, record)  # type: ignore[arg-type]  # mypy: a str
    assert lines[0].endswith(" INFO mine POST /v2 - bytes_in=0 bytes_out=0 seconds=0.5\n")
    fields = json.loads(lines[1])
    assert fields["time"].endswith("+00:00")
    assert {name for name, value in fields.items() if value is None} == {
        *("status", "trace_id", "traceback", "model", "queue_seconds", "compute_seconds", "batch_rows")
    }


def test_a_run_is_told_in_seconds_and_rows() -> None:
    record = Record(1.0, ended=2.0, status=200, model="m", queue=(1.25, 1.5), run=Run(8, (1.5, 1.75)))
    fields = fields_of(SCOPE, record)
    assert (fields["queue_seconds"], fields["compute_seconds"], fields["batch_rows"]) == (0.25, 0.25, 8)


@pytest.mark.parametrize(
    ("path", "written"),
    [
        (b'/a b\n"\\\x7f\xff', "/a%20b%0A%22%5C%7F%FF"),
        (b"/%0A", "/%0A"),  # as it was sent
        (b"/" + b"x" * 1000, "/" + "x" * 255),
    ],
)
def test_a_path_can_break_no_line_and_is_short(path: bytes, written: str) -> None:
    assert fields_of(SCOPE | {"raw_path": path}, Record(0.0))["path"] == written
