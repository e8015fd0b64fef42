"""``python -m service check``: what it prints, and its exit status."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.check import check
from service.settings import SettingError

ROOT = Path(__file__).parents[2]
NAME = "ln-mlp-digits"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "artifacts" / NAME, tmp_path / NAME)
    return tmp_path


def other_weights(folder: Path) -> None:
    """Of another training: hashes fit, answers are not those that were certified."""
    file, manifest = folder / "model.safetensors", folder / "manifest.json"
    file.write_bytes(file.read_bytes()[:-400] + bytes(400))
    document = json.loads(manifest.read_text())
    document["files"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(document))


def test_a_line_a_claim_and_0_when_all_hold(repository: Path) -> None:
    shutil.copytree(ROOT / "artifacts" / "bn-mlp-digits", repository / "bn-mlp-digits")
    out, progress = io.StringIO(), io.StringIO()
    assert check([str(repository)], out, progress) == 0
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines[0] == ["model", "version", "claim", "holds", "checked", "measured"]
    for line in (
        "bn-mlp-digits 1 train_eval_identical no, as certified export mismatching_rows 256",
        "batch_invariant yes here mismatching_rows 0",
        "2 of 2 hold",
    ):
        assert line.split() in lines
    assert "\x1b" not in out.getvalue()
    assert not progress.getvalue()


@pytest.mark.parametrize(
    ("flags", "printed"),
    [([], "torch_onnx_parity no here max_abs"), (["--certificate", "report"], "torch_onnx_parity no here max_abs")],
)
def test_a_claim_that_does_not_hold_here_is_1_whatever_is_served_then(
    repository: Path, flags: list[str], printed: str
) -> None:
    other_weights(repository / NAME / "1")
    out = io.StringIO()
    assert check([str(repository), *flags], out, io.StringIO()) == 1
    assert printed in " ".join(out.getvalue().split())
    assert "0 of 1 hold" in out.getvalue()


def test_a_broken_artifact_is_1_with_the_reason_and_the_others_are_checked(repository: Path) -> None:
    (repository / NAME / "2").mkdir()
    (repository / "empty").mkdir()
    out = io.StringIO()
    assert check([str(repository)], out, io.StringIO()) == 1
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert f"{NAME} 2 refused manifest.json is missing" in lines
    assert "empty refused it has no version: a folder named 1, 2, ... inside it" in lines
    assert "1 of 3 hold" in lines


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_gets_progress_and_colours_unless_no_color_is_set(
    repository: Path, monkeypatch: pytest.MonkeyPatch, *, no_color: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    out, progress = Terminal(), Terminal()
    assert check([str(repository)], out, progress) == 0
    assert ("\x1b[32myes" in out.getvalue()) is not no_color
    assert f"0/1 {NAME}/1" in progress.getvalue()
    assert progress.getvalue().endswith("\r\x1b[2K")  # nothing of it stays


@pytest.mark.parametrize("arguments", [[], ["--port"]])
def test_without_a_folder_it_says_how_it_is_used(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        check(arguments, io.StringIO(), io.StringIO())
    assert ended.value.code == 2
    assert "check MODEL_REPOSITORY [flags]" in capsys.readouterr().err


def test_what_this_machine_has_not_is_refused(repository: Path) -> None:
    with pytest.raises(SettingError, match="only cuda does"):
        check([str(repository), "--gpu-memory-bytes", "7"], io.StringIO(), io.StringIO())


def test_it_is_a_command_that_needs_no_torch(repository: Path) -> None:
    run = "import sys; sys.modules['torch'] = sys.modules['onnx'] = None; from service.__main__ import main; "

    def status(*arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "-c", f"{run}sys.exit(main({['check', *arguments]}))"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    code, out, errors = status(str(repository))
    assert (code, errors) == (0, "")
    assert "1 of 1 hold" in out
    assert status("nowhere")[0] == 2
