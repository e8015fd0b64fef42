"""The log: a line of text or of JSON for each event, with the id of the request it belongs to."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from service.queued_stream import standard_error
from service.record import trace_id
from service.request_id import current
from service.settings import Settings

TEXT = "%(asctime)s %(levelname)s %(request_id)s %(message)s"
NO_REQUEST = "-"


class _RequestId(logging.Filter):
    """Gives each record the ids of the request during which it was logged: of a handler, so that none is missed."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = current.get().decode() or NO_REQUEST
        record.trace_id = trace_id.get()
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line, ASCII alone, with the same fields in each; null where there is nothing."""

    def format(self, record: logging.LogRecord) -> str:
        """time: UTC, ISO 8601. traceback: as Python prints it, one string."""
        request_id = getattr(record, "request_id", NO_REQUEST)
        traceback = self.formatException(record.exc_info) if record.exc_info else record.stack_info
        return json.dumps(
            {
                "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
                "level": record.levelname,
                "logger": record.name,
                "message": record.getMessage(),
                "request_id": None if request_id == NO_REQUEST else request_id,
                "trace_id": getattr(record, "trace_id", None),
                "traceback": traceback,
            }
        )


def handler_of(settings: Settings) -> "logging.StreamHandler[Any]":
    """Writes to standard error."""
    # With a line a request a pipe that nobody reads is soon full: no other line may wait for it either.
    handler = logging.StreamHandler(standard_error() if settings.access_log else None)
    handler.addFilter(_RequestId())
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else logging.Formatter(TEXT))
    return handler


def configure_logging(settings: Settings) -> None:
    """Of the whole process: what uvicorn, asyncio and Python's warnings say goes the same way."""
    logging.basicConfig(level=logging.INFO, handlers=[handler_of(settings)])
    logging.captureWarnings(True)
