"""The log of requests: a line for each that was answered, of what the server knows of it; nothing of what it holds."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import orjson
from starlette.types import Scope

from service.record import Record, Span
from service.request_id import REQUEST_ID

# Nothing that could break a line, or a quoted string. The query is left out: nobody here asks for one.
INSANE = re.compile(rb"[^!#-\[\]-~]")
LONGEST_PATH = 256

Field = str | int | float | None


def access_log(log_format: Literal["text", "json"], write: Callable[[str], object]) -> Callable[[Scope, Record], None]:
    """What is told of each request, and writes its line."""
    line = _json if log_format == "json" else _text

    def tell(scope: Scope, record: Record) -> None:
        write(line(scope.get(REQUEST_ID, b"").decode(), record.trace_id, fields_of(scope, record)))

    return tell


def fields_of(scope: Scope, record: Record) -> dict[str, Field]:
    """By name, in the order of a line; None for what there was not."""
    run = record.run
    return {
        "method": scope["method"],
        "path": _sane(scope.get("raw_path") or scope["path"].encode()),
        "status": record.status,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "seconds": _seconds((record.began, record.ended)),
        "model": record.model,
        "queue_seconds": _seconds(record.queue),
        "compute_seconds": run and _seconds(run.span),
        "batch_rows": run and run.rows,
    }


def _sane(path: bytes) -> str:
    return INSANE.sub(lambda found: b"%%%02X" % found[0][0], path[:LONGEST_PATH]).decode()


def _seconds(span: Span | None) -> float | None:
    return None if span is None else round(span[1] - span[0], 6)


def _text(request_id: str, trace_id: str | None, fields: dict[str, Field]) -> str:
    """As the other lines of the log; what there was not is left out."""
    time = datetime.now().isoformat(" ", "milliseconds").replace(".", ",")  # logging's own form
    method, path, status, *_ = fields.values()
    more = "".join([f" {name}={value}" for name, value in list(fields.items())[3:] if value is not None])
    trace = f" trace_id={trace_id}" if trace_id else ""
    return f"{time} INFO {request_id or '-'} {method} {path} {status or '-'}{more}{trace}\n"


def _json(request_id: str, trace_id: str | None, fields: dict[str, Field]) -> str:
    """The fields of every line of the log, and those of a request."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": "INFO",
        "logger": __name__,
        "message": f"{fields['method']} {fields['path']} {fields['status']}",
        "request_id": request_id or None,
        "trace_id": trace_id,
        "traceback": None,
        **fields,
    }
    return orjson.dumps(line).decode() + "\n"
