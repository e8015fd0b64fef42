"""SECURITY.md: each promise names tests, and they are there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()


def test_each_promise_names_tests_that_are_there() -> None:
    rows = re.findall(r"^\| (.*) \| (.*) \|$", PAGE.split("## What is left to a proxy")[0], re.MULTILINE)[1:]
    assert len(rows) > 15
    for promise, shown_by in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", shown_by)
        assert named, promise
        for file, test in named:
            functions = [
                node.name
                for node in ast.walk(ast.parse((ROOT / file).read_text()))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            assert test in functions, (promise, file)


def test_the_settings_it_names_are_there() -> None:
    settings = (ROOT / "docs" / "settings.md").read_text()
    for setting in set(re.findall(r"NORMSERVE_\w+", PAGE)):
        assert f"| `{setting}` |" in settings
