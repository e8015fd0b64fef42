"""Lines of the log, as its handler writes them."""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.log import handler_of
from service.request_id import current
from service.settings import Settings

Written = Callable[..., str]


@contextmanager
def during(request_id: bytes) -> Iterator[None]:
    token = current.set(request_id)
    try:
        yield
    finally:
        current.reset(token)


@pytest.fixture
def written(tmp_path: Any) -> Written:
    """``written("text", "%s rows", 7)``: what the handler of that format writes of a record."""

    def write(log_format: Any, message: str, *arguments: object, **more: Any) -> str:
        handler = handler_of(Settings(log_format=log_format, model_repository=tmp_path))
        assert isinstance(handler, logging.StreamHandler)
        stream = io.StringIO()
        handler.setStream(stream)
        logger = logging.Logger("service.test")
        logger.addHandler(handler)
        logger.error(message, *arguments, **more)
        return stream.getvalue()

    return write


def test_text_has_the_id_of_the_request_or_a_dash(written: Written) -> None:
    assert written("text", "%d rows", 7).endswith(" ERROR - 7 rows\n")
    with during(b"abc-1"):
        assert written("text", "%d rows", 7).endswith(" ERROR abc-1 7 rows\n")


def test_json_is_one_object_a_line_with_the_same_fields_in_each(written: Written) -> None:
    with during(b"abc-1"):
        line = written("json", "%s failed\nand says why: \u2028 \ud800 \"'", "m")
    assert line.count("\n") == 1
    assert line.isascii()
    record = json.loads(line)
    time = datetime.fromisoformat(record.pop("time"))
    assert timedelta(0) <= datetime.now(UTC) - time < timedelta(minutes=1)
    assert record == {
        "level": "ERROR",
        "logger": "service.test",
        "message": "m failed\nand says why: \u2028 \ud800 \"'",
        "request_id": "abc-1",
        "trace_id": None,
        "traceback": None,
    }
    assert json.loads(written("json", "outside"))["request_id"] is None


def test_a_traceback_is_one_string(written: Written) -> None:
    try:
        float("no number")
    except ValueError:
        line = written("json", "it failed", exc_info=sys.exc_info())
    assert line.count("\n") == 1
    traceback = json.loads(line)["traceback"]
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert traceback.endswith("ValueError: could not convert string to float: 'no number'")
