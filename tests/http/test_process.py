"""``python -m service`` as a process of its own: what it loads, how it starts, how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Thread

import httpx
import pytest

from service.openapi import DIGIT

ROOT = Path(__file__).parents[2]
Process = Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_with_exit_0(process: Process, number: signal.Signals) -> None:
    with process() as (running, address):
        assert httpx.post(f"{address}/v2/models/ln-mlp-digits/infer", json=BODY).status_code == 200
        running.send_signal(number)
        assert running.wait(30) == 0
        assert running.stderr
        log = running.stderr.read()
    assert "Traceback" not in log
    assert "ERROR" not in log


def test_requests_in_flight_are_answered_before_it_ends(process: Process) -> None:
    with process("--max-queue-delay-ms", "1000") as (running, address):
        answers: list[int] = []
        client = Thread(
            target=lambda: answers.append(
                httpx.post(f"{address}/v2/models/ln-mlp-digits/infer", json=BODY, timeout=30).status_code
            )
        )
        client.start()
        while (
            'normserve_pending_requests{model="ln-mlp-digits",version="1"} 1.0'
            not in httpx.get(f"{address}/metrics").text
        ):
            pass
        running.send_signal(signal.SIGTERM)
        client.join(30)
        assert running.wait(30) == 0
    assert answers == [200]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_the_serving_process_maps_no_torch(process: Process) -> None:
    with process() as (running, address):
        assert httpx.post(f"{address}/v2/models/ln-mlp-digits/infer", json=BODY).status_code == 200
        maps = Path(f"/proc/{running.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert not re.search(r"torch|/onnx/", maps)


def test_a_wrong_setting_ends_it_with_2_and_a_line_that_names_it() -> None:
    def run(*flags: str, **environment: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "service", *flags],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stderr

    assert run("--max-batch-size", "0") == (
        2,
        "--max-batch-size (NORMSERVE_MAX_BATCH_SIZE) is '0': Input should be greater than or equal to 1\n",
    )
    status, words = run(NORMSERVE_MAXBATCH="7")
    assert status == 2
    assert words.startswith("unknown setting NORMSERVE_MAXBATCH; the settings are NORMSERVE_HOST")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run("--port", str(port)) == (
            2,
            f"--port (NORMSERVE_PORT) is '{port}': it cannot be listened on: Address already in use\n",
        )
    assert run("--host", "192.0.2.1") == (
        2,
        "--host (NORMSERVE_HOST) is '192.0.2.1': it cannot be listened on: Cannot assign requested address\n",
    )
    status, words = run("--host", "nowhere.invalid")
    assert status == 2
    assert words.startswith("--host (NORMSERVE_HOST) is 'nowhere.invalid': no address of this machine: ")


def test_make_serve_leaves_the_port_to_the_settings_unless_it_is_told_one() -> None:
    # Not what an outer make, which may run these tests, was told.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "PORT")}

    def command(*told: str) -> str:
        dry_run = ["make", "--dry-run", "serve", *told]
        done = subprocess.run(dry_run, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.rstrip().splitlines()[-1].rstrip()

    assert command() == "exec .venv/bin/python -m service"
    assert command("PORT=8001") == "exec .venv/bin/python -m service --port 8001"


def test_help_describes_every_flag() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    for flag in ("--port", "--model-repository", "--max-batch-size", "--certificate"):
        assert flag in done.stdout
    lines = done.stdout.splitlines()
    assert lines.index("where to listen:") < lines.index("models:") < lines.index("logs and traces:")
    assert "null" not in done.stdout  # pydantic's word for a setting that none is given of
    assert all(flag.startswith("--") or flag == "-h," for flag in re.findall(r"^  (-\S+)", done.stdout, re.MULTILINE))
