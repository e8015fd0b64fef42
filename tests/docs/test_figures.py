"""What pages of docs/ say in tables is what the manifests and a running server say."""

import json
import re

import httpx

from tests.docs.pages import ROOT


def test_the_metrics_of_the_models_are_those_of_the_manifests() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*?(\d\.\d{4}) \|", page, re.MULTILINE))
    assert set(rows) == {folder.name for folder in (ROOT / "artifacts").iterdir()}
    for name, figure in rows.items():
        metric = json.loads((ROOT / "artifacts" / name / "1" / "manifest.json").read_text())["metric"]
        assert (f"{metric['torch']:.4f}", f"{metric['served']:.4f}") == (figure, figure)


def test_the_page_of_metrics_has_those_of_a_server_and_no_others(address: str) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    described = dict(re.findall(r"^\| `(normserve_\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert described == dict(re.findall(r"^# TYPE (normserve_\w+) (\w+)$", httpx.get(f"{address}/metrics").text, re.M))
