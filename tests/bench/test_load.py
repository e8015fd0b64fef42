"""`make load` as it is written in the Makefile, against the real service and against fakes that misbehave.

Locust runs as a process: what it does to sockets and sleep must not reach the tests' own.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest

from bench.load_settings import add_settings, load_settings
from bench.oip import DIFFERENT_INPUTS, DTYPES, Answer, LoadError, Wanted, find, server_url

ROOT = Path(__file__).parents[2]


def make_load(report: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """What the command that make would run says, and how it ends."""
    command = command_of_make(report, **settings)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def command_of_make(report: Path, **settings: object) -> list[str]:
    """By the interpreter of the tests instead of that of .venv."""
    given = [f"{name}={value}" for name, value in (settings | {"REPORT": report}).items()]
    # --old-file: make is not to install, whether or not this checkout has a .venv
    asked = ["make", "--dry-run", "--no-print-directory", "--old-file=.venv/bench-installed", "load", *given]
    command = subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    python = ".venv/bin/python "
    assert command.startswith(python), command
    return [sys.executable, *shlex.split(command.removeprefix(python).replace("\\\n", ""))]


def good_answers(output: str) -> int:
    found = re.search(r"^requests/s +[\d.]+ \((\d+) good answers in [\d.]+ s\)$", output, re.M)
    assert found, output
    return int(found[1])


@pytest.mark.parametrize(
    ("settings", "described"),
    [
        ({"MODEL": "ln-mlp-digits"}, "x FP32 [1, 64], binary"),
        ({"MODEL": "ln-gru-charlm", "BATCH": 2, "LENGTH": 8}, "ids INT64 [2, 8], binary"),
        ({"MODEL": "layer_norm", "BATCH": 3, "FORMAT": "json"}, "x FP32 [3, 16], json"),
    ],
    ids=lambda value: value["MODEL"] if isinstance(value, dict) else "",
)
def test_a_model_is_loaded_without_failures(
    address: str, tmp_path: Path, settings: dict[str, object], described: str
) -> None:
    report = tmp_path / "reports" / "load.html"
    before = requests_counted(address, str(settings["MODEL"]))
    done = make_load(report, URL=address, USERS=4, SECONDS=2, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"each request: {described}" in done.stdout
    answered = good_answers(done.stdout)
    assert answered > 0
    assert requests_counted(address, str(settings["MODEL"])) - before == answered + DIFFERENT_INPUTS
    times = [float(time) for time in re.findall(r"^p(?:50|95|99) +([\d.]+) ms", done.stdout, re.M)]
    assert len(times) == 3
    assert 0 < times[0] <= times[1] <= times[2]
    assert re.search(r"^failures +0$", done.stdout, re.M)
    page = report.read_text()
    assert f"/v2/models/{settings['MODEL']}/infer" in page
    assert f'"num_requests": {answered}' in page


def requests_counted(address: str, model: str) -> int:
    """Those that the service says it answered."""
    statistics = httpx.get(f"{address}/v2/models/{model}/stats").json()["model_stats"][0]
    return int(statistics["inference_stats"]["success"]["count"])


def test_a_rate_is_kept_and_spread_evenly(tmp_path: Path) -> None:
    with fake_server() as (address, fake):
        done = make_load(tmp_path / "load.html", URL=address, USERS=4, SECONDS=2, RATE=20, MODEL="fake")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 requests/s in all" in done.stdout
    arrivals = fake.arrivals[DIFFERENT_INPUTS:]
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    # 1/20 s apart, where bursts of four would come 1/5 s apart; half of them on time is enough on a busy machine
    assert 30 <= len(arrivals) <= 45
    assert 0.03 < sorted(gaps)[len(gaps) // 2] < 0.07


def test_a_rate_that_the_server_cannot_keep_up_with_is_said(address: str, tmp_path: Path) -> None:
    done = make_load(tmp_path / "load.html", URL=address, USERS=1, SECONDS=1, RATE=1_000_000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RATE=1e+06 was not reached" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "kill"])
def test_a_load_that_is_ended_early_gives_the_figures_so_far(address: str, tmp_path: Path, number: int) -> None:
    command = command_of_make(tmp_path / "load.html", URL=address, USERS=2, SECONDS=100)
    before = requests_counted(address, "ln-mlp-digits")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        deadline = monotonic() + 30
        while requests_counted(address, "ln-mlp-digits") < before + 20:  # more than are sent before the load
            assert monotonic() < deadline
            sleep(0.02)
        sleep(0.3)  # its seconds are said with one decimal, and 20 answers take no time
        running.send_signal(number)
        output, errors = running.communicate(timeout=30)
    assert errors == ""
    assert good_answers(output) > 0
    seconds = re.search(r"good answers in ([\d.]+) s", output)
    assert seconds
    assert 0 < float(seconds[1]) < 30


def test_an_unknown_model_is_refused_with_the_models_there_are(address: str, tmp_path: Path) -> None:
    report = tmp_path / "load.html"
    done = make_load(report, URL=address, USERS=4, SECONDS=2, MODEL="ln-mlp")
    assert done.returncode != 0
    assert done.stderr.startswith(f"make load: MODEL=ln-mlp is not among the models of {address}: ")
    assert "ln-mlp-digits, " in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not report.exists()


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"USERS": "many"}, "argument -u/--users: invalid int value: 'many'"),
        ({"USERS": 0}, "USERS=0 must be a whole number, 1 or more"),
        ({"SECONDS": 0}, "SECONDS=0 must be a whole number, 1 or more"),
        ({"URL": "http://127.0.0.1:1"}, "http://127.0.0.1:1/v2 does not answer"),
    ],
    ids=lambda value: "=".join(map(str, *value.items())) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_said_in_one_line_before_any_load(
    address: str, tmp_path: Path, setting: dict[str, object], error: str
) -> None:
    done = make_load(tmp_path / "load.html", **({"URL": address, "SECONDS": 1} | setting))
    assert done.returncode != 0
    assert done.stderr.startswith("make load: ")
    assert error in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


class Fake(ThreadingHTTPServer):
    """Answers what it was sent; later requests, if so told, with other numbers or a refusal."""

    daemon_threads = True

    def __init__(self, *, changes: bool = False, refuses: bool = False) -> None:
        self.changes, self.refuses = changes, refuses
        self.metadata: dict[str, Any] = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}
        self.server_metadata: Any = {"name": "fake", "extensions": []}
        self.numbers = count()
        self.arrivals: list[float] = []
        super().__init__(("127.0.0.1", 0), FakeHandler)


class FakeHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Fake

    def do_GET(self) -> None:
        known = {"/v2": self.server.server_metadata, "/v2/models/fake": self.server.metadata}
        if self.path in known:
            self.answer(200, known[self.path])
        else:
            self.answer(404, {"error": f"this fake has no {self.path}"})

    def do_POST(self) -> None:
        self.server.arrivals.append(monotonic())
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = next(self.server.numbers)
        is_later = number >= DIFFERENT_INPUTS
        if is_later and self.server.refuses:
            self.answer(429, {"error": "the queue of this fake is full"})
            return
        data = document["inputs"][0]["data"]
        if is_later and self.server.changes:
            data = [-value for value in data]
        # An id of its own each time, as MLServer gives: that is no difference.
        self.answer(
            200, {"id": str(number), "outputs": [{"name": "y", "shape": [1, 2], "datatype": "FP32", "data": data}]}
        )

    def answer(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Nothing: the tests read what `make load` says."""


@contextmanager
def fake_server(**behaviour: bool) -> Iterator[tuple[str, Fake]]:
    with Fake(**behaviour) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", server
        finally:
            server.shutdown()
            thread.join()


def test_a_server_whose_answers_change_is_reported_unless_that_is_allowed(tmp_path: Path) -> None:
    with fake_server(changes=True) as (address, _):
        settings = {"URL": address, "MODEL": "fake", "USERS": 2, "SECONDS": 1}
        done = make_load(tmp_path / "load.html", **settings)
        assert done.returncode != 0
        assert good_answers(done.stdout) == 0
        assert re.search(r"^  \d+ x 200, but the bits differ from those of the first answer", done.stdout, re.M)
        assert "but the bits differ" in (tmp_path / "load.html").read_text()
        allowed = make_load(tmp_path / "load.html", **settings, CHECK="no")
        assert allowed.returncode == 0, allowed.stdout
        assert good_answers(allowed.stdout) > 0


def test_refused_requests_are_failures_in_the_servers_own_words(tmp_path: Path) -> None:
    with fake_server(refuses=True) as (address, _):
        done = make_load(tmp_path / "load.html", URL=address, MODEL="fake", USERS=2, SECONDS=1)
    assert done.returncode != 0
    assert good_answers(done.stdout) == 0
    assert re.search(r"^  \d+ x 429: the queue of this fake is full$", done.stdout, re.M)
    assert "p50" not in done.stdout


def options(*flags: str) -> Namespace:
    """As Locust hands them over."""
    parser = ArgumentParser()
    add_settings(parser)
    theirs = {"host": "http://127.0.0.1:8000", "num_users": 1, "run_time": 1, "html_file": None}
    return Namespace(**(theirs | vars(parser.parse_args(flags))))


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--batch", "0"], "BATCH=0 must be a whole number, 1 or more"),
        (["--length", "1.5"], "LENGTH=1.5 must be a whole number, 1 or more"),
        (["--rate", "0"], "RATE=0 must be a number of more than 0"),
        (["--rate", "nan"], "RATE=nan must be a number of more than 0"),
        (["--rate", "fast"], "RATE=fast must be a number of more than 0"),
        (["--format", "xml"], "FORMAT=xml must be binary or json"),
        (["--check", "perhaps"], "CHECK=perhaps must be yes or no"),
        (["--parameters", "[1]"], 'PARAMETERS=[1] must be a JSON object, such as {"num_groups": 4}'),
        (["--parameters", "{"], 'PARAMETERS={ must be a JSON object, such as {"num_groups": 4}'),
    ],
    ids=lambda value: "=".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_setting_is_named_with_what_is_allowed(flags: list[str], error: str) -> None:
    with pytest.raises(LoadError) as raised:
        load_settings(options(*flags))
    assert str(raised.value) == error


@pytest.mark.parametrize(
    "text", ["", "127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://127.0.0.1:x", "http://[::1"]
)
def test_an_address_must_be_one_of_http(text: str) -> None:
    with pytest.raises(LoadError, match=re.escape(f"URL={text} must be http://HOST:PORT")):
        server_url(text)


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (Wanted("ln-mlp-digits", rows=257), "BATCH=257 is more than MODEL=ln-mlp-digits takes: at most 256"),
        (Wanted("ln-gru-charlm", length=513), "LENGTH=513 is more than MODEL=ln-gru-charlm takes: at most 512"),
        (Wanted("ln-mlp-digits", length=3), "LENGTH=3 has no effect: MODEL=ln-mlp-digits takes {'x': [-1, 64]}"),
        (Wanted("group_norm"), "MODEL=group_norm answers a first request with 400: group_norm needs the parameter"),
        (Wanted(""), "MODEL= is not among the models of"),
    ],
    ids=str,
)
def test_what_the_model_does_not_take_is_said_before_any_load(address: str, wanted: Wanted, error: str) -> None:
    with pytest.raises(LoadError, match=f"^{re.escape(error)}"):
        find(address, wanted)


def test_parameters_are_sent_in_both_formats(address: str) -> None:
    for wire_format in ("binary", "json"):
        wanted = Wanted("group_norm", 2, 8, wire_format, {"num_groups": 4})
        assert find(address, wanted).described == f"x FP32 [2, 8], {wire_format}"


def test_numbers_lie_between_the_bounds_that_the_server_gives(address: str) -> None:
    target = find(address, Wanted("ln-gru-charlm", 16, 512, "json"))
    assert len({request.body for request in target.requests}) == DIFFERENT_INPUTS
    for request in target.requests:
        data = json.loads(request.body)["inputs"][0]["data"]
        assert (min(data), max(data)) == (0, 102)  # of 8192: that one of 103 is missing has a chance of 1e-33


@pytest.mark.parametrize("datatype", DTYPES)
def test_any_datatype_of_numbers_can_be_drawn(datatype: str) -> None:
    with fake_server() as (address, fake):
        fake.metadata = {"inputs": [{"name": "x", "datatype": datatype, "shape": [-1, 3, -1]}]}
        wanted = Wanted("fake", rows=2, length=5)
        if datatype == "FP16":
            with pytest.raises(LoadError, match="FORMAT=json: x is FP16, which JSON has not; use FORMAT=binary"):
                find(address, wanted)
            return
        document = json.loads(find(address, wanted).requests[0].body)["inputs"][0]
    assert (document["datatype"], document["shape"], len(document["data"])) == (datatype, [2, 3, 5], 30)
    if not datatype.startswith("FP"):
        assert set(document["data"]) == {0, 1}


@pytest.mark.parametrize(
    ("server_metadata", "inputs", "error"),
    [
        ([], [], "answers, but GET /v2 is not that of the Open Inference Protocol v2"),
        ({}, [], "MODEL=fake: the server's metadata names no inputs, so none can be drawn"),
        (
            {},
            [{"name": "x", "datatype": "BYTES", "shape": [-1]}],
            "MODEL=fake: x is BYTES; what can be drawn is BOOL, INT8",
        ),
        ({}, [{"name": "x", "datatype": "FP32", "shape": [1, 2]}], "BATCH=2 has no effect: MODEL=fake takes"),
    ],
    ids=["no protocol", "no inputs", "strings", "fixed rows"],
)
def test_a_server_that_cannot_be_loaded_says_why(
    server_metadata: Any, inputs: list[dict[str, Any]], error: str
) -> None:
    with fake_server() as (address, fake):
        fake.server_metadata, fake.metadata = server_metadata, {"inputs": inputs}
        with pytest.raises(LoadError, match=re.escape(error)):
            find(address, Wanted("fake", rows=2))


def test_a_server_without_a_list_of_models_is_quoted() -> None:
    with (
        fake_server() as (address, _),
        pytest.raises(LoadError, match="MODEL=x: .* answers 404: this fake has no /v2/mo"),
    ):
        find(address, Wanted("x"))


@pytest.mark.parametrize(
    ("first", "second", "are_the_same"),
    [
        ((b'{"id":"1","outputs":[{"data":[0.5]}]}', None), (b'{"id":"2","outputs":[{"data":[0.5]}]}', None), True),
        ((b'{"outputs":[{"data":[0.0]}]}', None), (b'{"outputs":[{"data":[-0.0]}]}', None), False),
        ((b'{"outputs":[{}]}\1\2', "16"), (b'{"id":"7","outputs":[{}]}\1\2', "25"), True),
        ((b'{"outputs":[{}]}\1\2', "16"), (b'{"outputs":[{}]}\1\3', "16"), False),
        ((b'{"outputs":[{}]}', None), (b"<html>", None), False),
    ],
)
def test_answers_are_the_same_when_the_bits_of_their_outputs_are(
    first: tuple[bytes, str | None], second: tuple[bytes, str | None], are_the_same: bool
) -> None:
    assert Answer(200, *second).has_the_outputs_of(Answer(200, *first)) is are_the_same


def test_the_page_about_load_tests_has_every_setting_with_its_default() -> None:
    makefile = dict(re.findall(r"^load: ([A-Z]+) = ?(.*)$", (ROOT / "Makefile").read_text(), re.M))
    page = (ROOT / "docs" / "load-testing.md").read_text()
    listed = dict(re.findall(r"^\| `([A-Z]+)=` \| (.*?) \|", page, re.M))
    assert list(listed) == list(makefile)
    for setting, default in makefile.items():
        if default:
            assert listed[setting] == f"`{default.replace('$(MODEL)', '<model>')}`"


def test_the_metrics_on_the_page_about_load_tests_are_there(address: str) -> None:
    named = set(re.findall(r"normserve_\w+", (ROOT / "docs" / "load-testing.md").read_text()))
    assert named
    served = set(re.findall(r"^# TYPE (\w+)", httpx.get(f"{address}/metrics").text, re.M))
    assert named <= served


def test_a_server_that_asks_for_a_key_is_shown_that_of_the_environment(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(api_key="s3cret-key") as address:
        monkeypatch.setenv("NORMSERVE_API_KEY", "s3cret-key")
        done = make_load(tmp_path / "load.html", URL=address, USERS=2, SECONDS=1)
        assert done.returncode == 0, done.stdout + done.stderr
        assert good_answers(done.stdout) > 0
        assert "s3cret-key" not in done.stdout + done.stderr + (tmp_path / "load.html").read_text()
        for key, error in (
            ("another", "answers 401: the API key is wrong; make load takes the key from NORMSERVE_API_KEY"),
            ("two words", "NORMSERVE_API_KEY must have at least one character, and only visible ASCII ones"),
        ):
            monkeypatch.setenv("NORMSERVE_API_KEY", key)
            with pytest.raises(LoadError, match=error) as raised:
                find(address, Wanted("ln-mlp-digits"))
            assert key not in str(raised.value)
