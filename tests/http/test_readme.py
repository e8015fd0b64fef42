"""The README's examples, run as they are written, against a running server."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(
    r"<!-- test: run -->\n```(\w+)\n(.*?)```(?:\s*<!-- test: output of the block above -->\n```text\n(.*?)```)?",
    README,
    re.DOTALL,
)


def test_the_readme_has_examples_for_curl_and_for_tritonclient() -> None:
    assert any(language == "bash" and "curl" in code for language, code, _ in BLOCKS)
    assert any(language == "python" and "tritonclient" in code for language, code, _ in BLOCKS)


@pytest.mark.parametrize(("language", "code", "output"), BLOCKS, ids=[f"{i}-{b[0]}" for i, b in enumerate(BLOCKS)])
def test_an_example_of_the_readme_runs(address: str, language: str, code: str, output: str) -> None:
    assert "127.0.0.1:8000" in code
    code = code.replace("127.0.0.1:8000", address.removeprefix("http://"))
    command = {"bash": ["bash", "-euc", code], "python": [sys.executable, "-c", code]}[language]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    if output:
        assert done.stdout.strip() == output.strip()
    else:
        answer = json.loads(done.stdout)
        assert answer.get("outputs") or answer.get("claims"), answer


def test_the_curl_example_recognises_its_digit(address: str) -> None:
    code = next(code for language, code, _ in BLOCKS if language == "bash" and "digits/infer" in code)
    done = subprocess.run(
        ["bash", "-euc", code.replace("127.0.0.1:8000", address.removeprefix("http://"))],
        capture_output=True,
        text=True,
        timeout=60,
    )
    logits = json.loads(done.stdout)["outputs"][0]["data"]
    assert logits.index(max(logits)) == 3


def test_the_readme_names_every_model_and_no_other() -> None:
    named = set(re.findall(r"`([a-z-]+-(?:digits|charlm))`", README))
    assert named == {folder.name for folder in (ROOT / "artifacts").iterdir()}
