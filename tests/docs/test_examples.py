"""The examples of docs/, run as they are written, in their order, against a running server; what they show is compared.

``bash``, ``python`` and ``js`` are run unless ``<!-- not run: reason -->`` stands above; ``text`` and ``json`` is what
the example above prints, where ``...`` in text is anything. A page's examples share a folder that has the repository's
folders in it, as a clone has.
"""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from bench.servers import free_port
from tests.docs.pages import ROOT, RUN, SHOWN, Block, examples, fenced, pages

DEFAULT, SECOND = "127.0.0.1:8000", "127.0.0.1:8001"
NEEDED = ("artifacts", "export", "models", "service", "deploy", "pyproject.toml")
SHOWS_EXAMPLES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "SECURITY.md"]
WITH_EXAMPLES = [page for page in SHOWS_EXAMPLES if any(not each.reason for each in examples(page.read_text()))]
NODE = shutil.which("node")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LOGGED = (
    "{const log = document.createElement('pre'); document.body.append(log);"
    " console.log = (...words) => log.append(words.join(' ') + '\\n');}"
)


def test_what_is_not_run_says_why() -> None:
    for page in pages():
        text = page.read_text()
        for block in fenced(text):
            where = f"{page.relative_to(ROOT)}, line {block.line}"
            if block.language in RUN + SHOWN:
                assert page in SHOWS_EXAMPLES or block.comment.startswith(("test: ", "not run: ")), where
            if block.comment.startswith("not run"):
                assert len(block.reason) > 5, where


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder to run examples in: what they write is nobody's."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in NEEDED:
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=[page.name for page in WITH_EXAMPLES])
def test_the_examples_of_a_page_run_and_print_what_it_shows(page: Path, address: str, clone: Path) -> None:
    for block in examples(page.read_text()):
        if block.reason:
            continue
        if block.language == "js" and not (NODE or CHROMIUM):
            continue  # test_javascript_runs says so
        printed = run(block, address, clone, f"{page.name}, line {block.line}")
        if block.output is not None:
            assert matches(block.output, printed), f"{page.name}, line {block.line} printed\n{printed}"


@pytest.mark.parametrize("program", ["node", "chromium"])
def test_javascript_runs_where_there_is_node_or_a_browser(program: str, address: str, clone: Path) -> None:
    """Each is tried by itself: a browser does what node does."""
    if not {"node": NODE, "chromium": CHROMIUM}[program]:
        pytest.skip(f"there is no {program}")
    block = Block(0, "js", f"console.log((await (await fetch('http://{DEFAULT}/v2')).json()).name);", "")
    assert (
        in_javascript(block.code.replace(f"http://{DEFAULT}", address), clone, program=program).strip() == "normserve"
    )


def run(block: Block, address: str, folder: Path, where: str) -> str:
    """What it prints; the addresses that pages name are the running server's, and a free one."""
    code = block.code.replace(DEFAULT, address.removeprefix("http://"))
    if (second := SECOND.partition(":")[2]) in code:
        code = code.replace(second, str(free_port()))
    if block.language == "js":
        return in_javascript(code, folder, program="node" if NODE else "chromium")
    command = ["bash", "-euo", "pipefail", "-c", code] if block.language == "bash" else [sys.executable, "-c", code]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NORMSERVE_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "120"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"{where}: {done.stderr}"
    return done.stdout


def in_javascript(code: str, folder: Path, *, program: str) -> str:
    """What it logs, as a module, by node or by a page of Chromium."""
    if program == "node":
        assert NODE is not None
        done = subprocess.run(
            [NODE, "--input-type=module", "--eval", code], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
    assert CHROMIUM is not None
    page = folder / "page.html"
    page.write_text(f"<!doctype html><body><script>{LOGGED}</script><script type=module>{code}</script></body>")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-web-security"]
    flags += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=90, check=False)
    found = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert found, done.stdout + done.stderr
    return html.unescape(found[1])


def matches(shown: str, printed: str) -> bool:
    """Whether it is the same JSON or, up to ``...``, the same text."""
    if shown.strip()[:1] in ("{", "[") and "..." not in shown:
        with suppress(ValueError):  # several objects on a line are text
            return bool(json.loads(shown) == json.loads(printed))
    pattern = ".*?".join(re.escape(part) for part in shown.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None
