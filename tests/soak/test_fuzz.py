"""Requests that tools draw: schemathesis from our OpenAPI document, atheris by what code they reach."""

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bench.report import Line

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_no_request_that_schemathesis_draws_is_answered_by_what_is_not_documented(
    server: Any, full: bool, record: Callable[..., None]
) -> None:
    seconds = 600 if full else 10
    with server() as (started, address):
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", f"--checks={CHECKS}"]
        command += ["--phases=examples,coverage,fuzzing", "--continue-on-failure", f"--max-time={seconds}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 600)
        assert started.process.is_running()
        assert "Traceback" not in started.said()
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated, done.stdout[-3000:]
    spread = f"{generated[1]} requests in {seconds} s"
    record(Line("schemathesis: operations that fail a check", done.returncode, spread, 0, False))
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is there for Linux and macOS alone")
def test_no_request_that_atheris_finds_is_answered_with_a_5xx(
    tmp_path: Path, full: bool, record: Callable[..., None]
) -> None:
    seconds = 600 if full else 6
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    command = [sys.executable, "-m", "bench.fuzz", str(corpus), f"-max_total_time={seconds}", "-max_len=8192"]
    command += ["-print_final_stats=1", f"-artifact_prefix={tmp_path}/", "-timeout=20", "-rss_limit_mb=4096"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds + 100)
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert executed, done.stderr[-3000:]
    spread = f"{executed[1]} requests in {seconds} s"
    record(Line("atheris: requests with a 5xx or an undocumented status", int(done.returncode != 0), spread, 0, False))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert int(executed[1]) > len(list(corpus.iterdir()))
