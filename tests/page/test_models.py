"""The models, and their certificates claim by claim, as the API has them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, expect

Visit = Callable[..., Page]
ARTIFACTS = Path(__file__).parents[2] / "artifacts"


def claims(page: Page) -> dict[str, str]:
    """What stands on the page of each claim."""
    sections = page.locator(".claim").all()
    return {section.locator("h4 code").inner_text(): section.inner_text() for section in sections}


def test_every_model_stands_there_with_each_claim_of_its_certificate(visit: Visit, address: str) -> None:
    page = visit("models")
    index = httpx.post(f"{address}/v2/repository/index").json()
    expect(page.locator("#model-list a")).to_have_count(len(index))
    for name in ("bn-mlp-digits", "ln-lstm-charlm", "layer_norm"):
        page.get_by_role("link", name=f"{name} ready", exact=True).press("Enter")
        expect(page.locator("#model h3")).to_have_text(f"{name} version 1")
        certificate = httpx.get(f"{address}/v1/models/{name}/certificate").json()
        shown = claims(page)
        assert list(shown) == [claim["claim"] for claim in certificate["claims"]]
        for claim in certificate["claims"]:
            text = shown[claim["claim"]]
            assert claim["how"] in " ".join(text.split())
            assert ("does not hold" in text) is not claim["holds"]
            assert ("at start" in text) is (claim["checked"] == "start")
        metadata = httpx.get(f"{address}/v2/models/{name}").json()
        tensors = [each["name"] for each in (*metadata["inputs"], *metadata["outputs"])]
        assert page.locator(".tensors tbody code").all_inner_texts() == tensors


def test_the_measured_numbers_are_the_certificates(visit: Visit, address: str) -> None:
    page = visit("models/bn-mlp-digits/1", size="phone")
    expect(page.locator("#model h3")).to_have_text("bn-mlp-digits version 1")
    expect(page.locator("#model .verdict")).to_have_text("5 of 6 claims hold")
    broken = page.locator(".claim.broken")
    measured = httpx.get(f"{address}/v1/models/bn-mlp-digits/certificate").json()["claims"][0]["measured"]
    expect(broken.locator(".headline")).to_have_text(
        f"{measured['mismatching_rows']} of {measured['rows_compared']} rows differ; "
        f"largest difference {measured['max_abs']:.4g}"
    )
    broken.locator("summary").press("Enter")
    expect(broken.locator("dd").nth(2)).to_have_text(f"{measured['max_abs']:.4g}")


def test_a_refused_model_says_why(visit: Visit, serve: Any, tmp_path: Path) -> None:
    for name in ("ln-mlp-digits", "bn-mlp-digits"):
        shutil.copytree(ARTIFACTS / name, tmp_path / name)
    manifest = tmp_path / "bn-mlp-digits" / "1" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["model.onnx"] = "0" * 64
    manifest.write_text(json.dumps(content))
    with serve(model_repository=tmp_path) as address:
        index = httpx.post(f"{address}/v2/repository/index").json()
        (reason,) = (entry["reason"] for entry in index if entry["name"] == "bn-mlp-digits")
        assert "sha256" in reason
        page = visit("models", at=address)
        page.get_by_role("link", name="bn-mlp-digits refused").click()
        expect(page.locator("#model .fails")).to_have_text("unavailable, not served")
        expect(page.locator("#model .reason")).to_have_text(reason)
        page.get_by_role("link", name="Try", exact=True).click()
        expect(page.locator("#digit-answers h4")).to_have_text(["ln-mlp-digits"])
        expect(page.locator("#text-error")).to_have_text("No character model is served.")
