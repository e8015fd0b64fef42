"""Prometheus and Grafana: what deploy/ says of them, against a real Prometheus and the metrics of the real service."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest

from bench.servers import free_port

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "normserve.json").read_text())
QUERIES = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
# What Grafana puts in place of its variables; the interval is four scrapes, as its own is at the least.
VARIABLES = {"$model": ".*", "$__rate_interval": "4s"}
ROW = {"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}
REQUESTS = {
    "success": {"inputs": [ROW]},
    "invalid": {"inputs": [ROW | {"shape": [1, 63]}]},
    "rejected": {"inputs": [ROW], "parameters": {"timeout": 1}},
}

# Where `make test` unpacks Debian's package, unless it is installed.
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), str(ROOT / ".venv" / "debian" / "usr" / "bin")))
SERVER, TOOL = (shutil.which(name, path=PATH) or "" for name in ("prometheus", "promtool"))
needs_prometheus = pytest.mark.skipif(
    not (SERVER and TOOL), reason="Prometheus is not installed (Debian's package prometheus)"
)


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run([TOOL, *arguments], cwd=ROOT, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@needs_prometheus
def test_prometheus_takes_its_configuration_and_the_alerts() -> None:
    assert "rules found" in promtool("check", "config", PROMETHEUS / "prometheus.yml")


@needs_prometheus
def test_each_alert_is_raised_when_it_should_be_and_not_otherwise() -> None:
    cases = Path(__file__).parent / "alerts_test.yml"
    assert "SUCCESS" in promtool("test", "rules", cases)
    alerts = re.findall(r"- alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text())
    assert alerts
    assert set(alerts) == set(re.findall(r"alertname: (\w+)", cases.read_text()))


def test_every_metric_that_a_panel_or_an_alert_names_is_there(address: str) -> None:
    ask(address)
    metrics = httpx.get(f"{address}/metrics").text
    there = set(re.findall(r"^(normserve_\w+)", metrics, re.MULTILINE))
    for where, text in (*QUERIES, ("alerts", (PROMETHEUS / "alerts.yml").read_text())):
        named = set(re.findall(r"\bnormserve_\w+", text))
        assert named <= there, where
    assert len(QUERIES) > 10


def test_the_dashboard_asks_the_data_source_that_is_provisioned() -> None:
    provisioned = (ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text()
    asked = {part["datasource"]["uid"] for panel in DASHBOARD["panels"] for part in (panel, *panel["targets"])}
    assert {f"uid: {uid} " in provisioned for uid in asked} == {True}
    scraped = re.findall(
        r"(?:scrape_interval|timeInterval): (\w+)", (PROMETHEUS / "prometheus.yml").read_text() + provisioned
    )
    assert len(scraped) == 2
    assert len(set(scraped)) == 1


@needs_prometheus
@pytest.mark.timeout(180)
def test_every_panel_has_data(tmp_path: Path, serve: Callable[..., Any]) -> None:
    with serve() as address, prometheus(tmp_path, address) as asked:
        empty = list(QUERIES)
        deadline = monotonic() + 120
        while empty:
            assert monotonic() < deadline, empty
            ask(address)
            empty = [(title, query) for title, query in empty if not has_data(asked, query)]
            sleep(0.2)


def ask(address: str) -> None:
    """Requests of each outcome that a panel shows, and that takes no fault of ours."""
    for outcome, body in REQUESTS.items():
        status = httpx.post(f"{address}/v2/models/ln-mlp-digits/infer", json=body).status_code
        assert status == {"success": 200, "invalid": 400, "rejected": 504}[outcome]


def has_data(address: str, query: str) -> bool:
    """Whether Prometheus answers with numbers: a rate of nothing, or a part of it, is no number."""
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    assert "$" not in query
    answer = httpx.get(f"{address}/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", answer
    values = [sample["value"][1] for sample in answer["data"]["result"]]
    return any(value != "NaN" for value in values)


@contextmanager
def prometheus(folder: Path, address: str) -> Iterator[str]:
    """The real one with our configuration, but for where the service is found and how often it is asked."""
    configuration = (PROMETHEUS / "prometheus.yml").read_text()
    target = address.removeprefix("http://")
    configuration, found = re.subn(
        r"dns_sd_configs:\n.*", f"static_configs:\n      - targets: ['{target}']", configuration
    )
    assert found == 1
    configuration = re.sub(r"scrape_interval: \w+", "scrape_interval: 1s", configuration)
    (folder / "prometheus.yml").write_text(configuration)
    shutil.copy(PROMETHEUS / "alerts.yml", folder)
    here = f"127.0.0.1:{free_port()}"
    command = [SERVER, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        running = subprocess.Popen([*command, f"--web.listen-address={here}"], stderr=log)
        try:
            deadline = monotonic() + 60
            while True:
                with suppress(httpx.TransportError):
                    if httpx.get(f"http://{here}/-/ready").status_code == 200:
                        break
                assert running.poll() is None, (folder / "log").read_text()
                assert monotonic() < deadline
                sleep(0.05)
            yield f"http://{here}"
        finally:
            running.terminate()
            running.wait(30)
