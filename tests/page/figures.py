"""Takes the pictures of the page: ``docs/figures/page-*.png``. By ``make page-figures``."""

import io
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from service.openapi import DIGIT
from service.settings import Settings
from tests.conftest import ARTIFACTS, running

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
DESK, PHONE = (1200, 900), (360, 740)
WATCHED_MS = 40_000  # of the charts
COLOURS = 128  # more than are seen; a picture stays below 150 kB
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]}


@contextmanager
def traffic(address: str) -> Iterator[None]:
    """Requests, in waves, for the charts to have something to show."""
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=address) as client:
            while not done.wait(0.01):
                for _ in range(20):
                    client.post("/v2/models/ln-mlp-digits/infer", json=BODY)
                done.wait(0.7)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def try_models(page: Page) -> None:
    page.get_by_role("button", name="a nine that is hard to tell").click()
    expect(page.locator("#digits-status")).to_contain_text("ln-mlp-digits: 5")
    expect(page.locator("#text-answers .likeliest")).to_have_count(4)


def normalise(page: Page) -> None:
    expect(page.locator("#bn-moved td.moved")).to_have_count(5)


def send(page: Page) -> None:
    expect(page.locator("#invariance-model")).to_have_value("ln-cnn-digits")
    page.get_by_role("button", name="Send them at once").click()
    expect(page.locator("#invariance-status")).to_contain_text("batch_norm")


def certificate(page: Page) -> None:
    page.get_by_role("link", name="bn-mlp-digits ready").click()
    expect(page.locator(".claim.broken")).to_be_visible()


def watch(page: Page) -> None:
    with traffic(page.url.partition("/#")[0]):
        page.wait_for_timeout(WATCHED_MS)


SHOTS = {
    "try": ("try", try_models, DESK, "light"),
    "normalise": ("normalise", normalise, DESK, "light"),
    "invariance": ("invariance", send, DESK, "light"),
    "models": ("models", certificate, DESK, "light"),
    "live": ("live", watch, DESK, "light"),
    "try-dark": ("try", try_models, DESK, "dark"),
    "normalise-dark": ("normalise", normalise, DESK, "dark"),
    "try-phone": ("try", try_models, PHONE, "light"),
    "normalise-phone": ("normalise", normalise, PHONE, "dark"),
}


def main() -> None:
    """All of them."""
    settings = Settings(port=0, model_repository=ARTIFACTS)
    with running(settings) as address, sync_playwright() as playwright:
        expect.set_options(timeout=60_000)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (panel, prepare, (width, height), scheme) in SHOTS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(f"{address}/#{panel}")
            prepare(page)
            page.mouse.move(0, 0)
            page.wait_for_timeout(500)
            picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
            if name == "try":  # the README's: the digits alone
                text = page.locator("#text-title").bounding_box()
                picture = picture.crop((0, 0, width, round(text["y"]) - 20 if text else height))
            file = FIGURES / f"page-{name}.png"
            picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
            print(f"{file.name}: {file.stat().st_size / 1e3:.0f} kB")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
