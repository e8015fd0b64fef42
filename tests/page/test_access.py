"""Who the page is for: everybody, at any width, in the dark, by keyboard, without motion, behind a key or a proxy."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import axe_playwright_python
import httpx
import pytest
from playwright.sync_api import Page, expect

Visit = Callable[..., Page]
AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
PANELS = ("try", "normalise", "invariance", "models", "live")
WIDEST_SHIFT = 0.05  # web.dev calls 0.1 good
SHIFTS = """() => new Promise((resolve) => {
  let sum = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) sum += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
  setTimeout(() => resolve(sum), 200);
})"""


def filled(page: Page, panel: str) -> None:
    """Until it shows what it is for."""
    shows = {
        "try": "#text-answers .likeliest >> nth=3",
        "normalise": "#bn-moved td.moved >> nth=0",
        "invariance": "#invariance-model option >> nth=3",
        "models": ".claim >> nth=5",
        "live": "#charts svg >> nth=3",
    }
    expect(page.locator(shows[panel])).to_be_attached()
    if panel == "try":
        expect(page.locator("#digit-answers .likeliest")).to_have_count(4)
    if panel == "invariance":
        page.locator("#invariance-count").fill("8")
        page.keyboard.press("Enter")
        expect(page.locator("#invariance-status")).to_contain_text("batch_norm")


@pytest.mark.parametrize(
    ("scheme", "size"), [("light", "desk"), ("dark", "desk"), ("light", "phone"), ("dark", "phone")]
)
def test_axe_finds_nothing_in_any_panel(visit: Visit, scheme: str, size: str) -> None:
    page = visit("try", scheme=scheme, size=size, motion="reduce")
    page.evaluate(AXE.read_text())  # past the page's policy, which lets no script of others in
    for panel in PANELS:
        page.locator(f"header nav a[href='#{panel}']").click()
        filled(page, panel)
        found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        assert [(each["id"], [node["target"] for node in each["nodes"]]) for each in found["violations"]] == [], panel
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]  # type: ignore[index]


@pytest.mark.parametrize("panel", PANELS)
def test_nothing_jumps_while_a_panel_fills(visit: Visit, panel: str) -> None:
    page = visit(panel)
    filled(page, panel)
    assert page.evaluate(SHIFTS) < WIDEST_SHIFT


def test_panels_are_reached_and_left_by_keyboard(visit: Visit) -> None:
    page = visit(motion="reduce")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    for panel in PANELS:
        page.locator("header nav a", has_text=panel.capitalize()).focus()
        page.keyboard.press("Enter")
        expect(page.locator(f"#panel-{panel}")).to_be_visible()
        expect(page.locator(f"header nav a[href='#{panel}']")).to_have_attribute("aria-current", "page")
    expect(page.locator("#live-title")).to_be_focused()
    assert page.locator("main > section:visible").count() == 1
    page.go_back()
    expect(page.locator("#panel-models")).to_be_visible()
    page.locator("#panel-models a").first.focus()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    still = page.evaluate("getComputedStyle(document.querySelector('.card')).transitionDuration")
    assert still == "0s"


def test_a_server_with_a_key_is_used_from_the_page(visit: Visit, serve: Any) -> None:
    with serve(api_key="right-key") as address:
        page = visit("models", at=address, refused=401)
        key = page.get_by_role("textbox", name="API key")
        expect(key).to_be_focused()
        expect(page.locator("#key-error")).to_contain_text("this server asks for an API key")
        key.fill("wrong-key")
        page.keyboard.press("Enter")
        expect(page.locator("#key-error")).to_have_text("the API key is wrong")
        key.fill("right-key")
        page.keyboard.press("Enter")
        expect(page.locator(".claim")).to_have_count(6)
        expect(page.locator("#key-form")).to_be_hidden()
        page.locator("header nav a[href='#live']").click()
        expect(page.locator("#charts .now").first).to_have_text("0")
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.get_by_role("button", name="Forget the API key").click()
        expect(page.get_by_role("textbox", name="API key")).to_be_focused()


@contextmanager
def proxy(upstream: str, prefix: str) -> Iterator[str]:
    """A proxy that serves upstream below a path of its own, and nothing beside it."""

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if not self.path.startswith(prefix):
                self.send_error(404)
                return
            length = int(self.headers.get("Content-Length") or 0)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            path = self.path.removeprefix(prefix)
            answer = client.request(self.command, path, headers=headers, content=self.rfile.read(length))
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.content)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with httpx.Client(base_url=upstream) as client, ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.daemon_threads, server.block_on_close = True, False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}{prefix}"
        server.shutdown()
        thread.join()


def test_the_page_works_below_a_path_of_a_proxy(visit: Visit, address: str) -> None:
    with proxy(address, "/models/normserve") as below:
        page = visit("try", at=below)
        for panel in ("try", "models", "live"):
            page.locator(f"header nav a[href='#{panel}']").click()
            filled(page, panel)
        page.close()
