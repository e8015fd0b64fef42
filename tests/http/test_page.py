"""``/docs`` in a browser: what it may load and run, and that it works all the same."""

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def test_a_page_cannot_be_framed_and_runs_its_own_scripts_alone(address: str) -> None:
    page = httpx.get(f"{address}/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert (page.headers["x-frame-options"], page.headers["referrer-policy"]) == ("DENY", "no-referrer")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["frame-ancestors"]) == ("'none'", "'none'")
    assert re.fullmatch(r"'self' 'sha256-[A-Za-z0-9+/]{43}='", policy["script-src"])


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; Debian's package is called chromium")
def test_a_browser_shows_the_documentation_and_finds_nothing_forbidden_in_it(address: str, tmp_path: Path) -> None:
    """By a name that is not localhost: Swagger UI does more for those, such as asking swagger.io about the document."""
    assert CHROMIUM is not None
    port = urlsplit(address).port
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path}",
            "--host-resolver-rules=MAP norm.example 127.0.0.1",
            "--enable-logging=stderr",
            "--virtual-time-budget=20000",
            "--dump-dom",
            f"http://norm.example:{port}/docs",
        ],
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert "/v2/models/{name}/versions/{version}/infer" in re.sub(r"<[^>]+>|\u200b", "", done.stdout), done.stderr
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert not [line for line in console if "Content Security Policy" in line or "Refused" in line], console
