"""Requests that tools draw: schemathesis from our OpenAPI document, atheris by what code they reach."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bench.asks import mixed
from bench.mutations import TOKENS
from bench.oip import HEADER_LENGTH
from bench.report import Line

FUZZER = Path(__file__).with_name("fuzz_requests.py")
PATHS = ["ln-mlp-digits", "ln-gru-charlm", "layer_norm", "group_norm", "batch_norm"]  # as in the program


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is there for Linux and macOS alone")
def test_no_request_that_atheris_finds_is_answered_with_a_5xx(
    tmp_path: Path, full: bool, record: Callable[..., None]
) -> None:
    seconds = 600 if full else 6
    corpus, words = tmp_path / "corpus", tmp_path / "words"
    corpus.mkdir()
    for number, ask in enumerate(mixed(5, small=True)):
        name = ask.path.split("/")[3]
        if name in PATHS:
            path = PATHS.index(name) + (len(PATHS) - 2 if "/ops/" in ask.path else 0)
            start = bytes((path, 2 * ("Content-Encoding" in ask.headers))) + ask.headers.get(HEADER_LENGTH, "").encode()
            (corpus / str(number)).write_bytes(start + b"\n" + ask.body)
    words.write_text("".join(f'"{"".join(f"\\x{byte:02x}" for byte in token[:20])}"\n' for token in TOKENS))
    command = [sys.executable, str(FUZZER), str(corpus), f"-max_total_time={seconds}", f"-dict={words}", "-max_len=8192"]
    command += ["-print_final_stats=1", f"-artifact_prefix={tmp_path}/", "-timeout=20", "-rss_limit_mb=4096"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds + 100)
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert executed, done.stderr[-3000:]
    spread = f"{executed[1]} requests in {seconds} s"
    record(Line("atheris: requests with a 5xx or an undocumented status", int(done.returncode != 0), spread, 0, False))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert int(executed[1]) > len(list(corpus.iterdir()))
