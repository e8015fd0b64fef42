"""What pages of docs/ say in tables is what the manifests and a running server say."""

import json
import re

import httpx

from service.errors import STATUS
from service.manifest import CERTIFICATES_FILE, Certificates
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


def test_the_page_of_the_http_api_has_every_path(address: str) -> None:
    page = (ROOT / "docs" / "http-api.md").read_text()
    for path, methods in httpx.get(f"{address}/openapi.json").json()["paths"].items():
        shown = path.replace("/versions/{version}", "").replace("/ops/{name}", "/ops/{op}").replace("{name}", "{m}")
        shown = re.sub(r"/ops/\w+_norm$", "/ops/{op}", shown)
        assert all(f"`{method.upper()} {shown}`" in page for method in methods), path


def test_the_page_of_the_http_api_has_every_status(address: str) -> None:
    page = (ROOT / "docs" / "http-api.md").read_text()
    cells = re.findall(r"^\| ([45][\d, ]+) \|", page, re.MULTILINE)
    listed = {int(status) for cell in cells for status in cell.split(",")}
    answered = {
        int(status)
        for methods in httpx.get(f"{address}/openapi.json").json()["paths"].values()
        for method in methods.values()
        for status in method["responses"]
    }
    of_every_path = {401, 405}  # 401: of a server with a key
    no_error, read_by_nobody = 200, 499
    assert listed == (answered | set(STATUS.values()) | of_every_path) - {no_error, read_by_nobody}


def test_the_errors_of_the_operations_are_those_of_their_certificates() -> None:
    certificates = Certificates.model_validate_json((ROOT / "service" / "graphs" / CERTIFICATES_FILE).read_bytes())
    measured = {each.model_name: each.claims[0].measured for each in certificates.root}
    page = (ROOT / "docs" / "normalisation.md").read_text()
    rows = re.findall(r"^\| (0|1e3|1e4) \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) == 3
    for mean, figures in rows:
        for name, (ours, theirs) in zip(
            ("layer_norm", "group_norm", "rms_norm"), batched(figures.split(" | "), 2), strict=True
        ):
            case = measured[name][f"as served, FP32, mean {float(mean):g}"]
            assert (f"{case['served_max']:.1e}", f"{case['torch_max']:.1e}") == (_exponent(ours), _exponent(theirs))


def _exponent(figure: str) -> str:
    mantissa, exponent = figure.split("e")
    return f"{mantissa}e{int(exponent):+03d}"


def batched(items: list[str], count: int) -> list[tuple[str, ...]]:
    return [tuple(items[start : start + count]) for start in range(0, len(items), count)]
