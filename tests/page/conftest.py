"""The page at ``/`` in a real browser: Debian's Chromium, driven by Playwright, which brings none of its own."""

import os
import shutil
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SIZES = {"desk": (1200, 900), "phone": (360, 740)}
PATIENCE_MS = 30_000

Visit = Callable[..., Page]


@pytest.fixture(scope="module")  # as long as it is open, Playwright's loop keeps async tests from running
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; Debian's package is called chromium")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=as_root)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    """``visit("models", size="phone", scheme="dark")``: the panel, as somebody sees it who opens the address.

    In the end nothing may stand in the browser's console (but of answers of the status ``refused``), no policy have
    been violated, and nothing have been asked of any other server.
    """
    problems = list[str]()

    def open_panel(
        panel: str = "try",
        *,
        at: str = address,
        size: str = "desk",
        scheme: str = "light",
        refused: int | None = None,
        motion: str = "no-preference",
    ) -> Page:
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height},
            has_touch=size == "phone",
            color_scheme=scheme,  # type: ignore[arg-type]
            reduced_motion=motion,  # type: ignore[arg-type]
        )
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()

        def asked(request: Request) -> None:
            if urlsplit(request.url).netloc != urlsplit(at).netloc:
                problems.append(f"asked {request.url}")

        page.on("request", asked)
        page.on("pageerror", lambda error: problems.append(f"raised {error}"))
        page.on(
            "console",
            lambda message: (
                problems.append(f"{message.type}: {message.text}")
                if message.type in ("error", "warning") and f"a status of {refused} " not in message.text
                else None
            ),
        )
        page.goto(f"{at}/#{panel}")
        return page

    yield open_panel
    found = list(problems)  # and not what comes of closing while something is asked
    for context in browser.contexts:
        context.close()
    assert found == []
