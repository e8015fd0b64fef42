"""``python -m export``: what it prints, what it refuses, and its exit status."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from export.__main__ import main
from export.catalog import CATALOG, REFERENCE_MODELS
from service.manifest import Manifest

RANDOM_MODELS = [name for name, spec in CATALOG.items() if spec.trained_by is None]


def run(*arguments: str) -> tuple[int, str]:
    printed = io.StringIO()
    status = main(arguments, Console(file=printed, width=200))
    return status, printed.getvalue()


def test_without_names_every_reference_model_is_exported(fresh_export: Any) -> None:
    assert fresh_export.status == 0
    assert {folder.name for folder in fresh_export.repository.iterdir()} == set(REFERENCE_MODELS)


def test_it_prints_every_claim_of_every_model_and_whether_it_holds(fresh_export: Any) -> None:
    for name in REFERENCE_MODELS:
        _, _, table = fresh_export.printed.partition(f"{name}, version 1")
        lines = table.splitlines()
        manifest = Manifest.load(fresh_export.repository / name / "1")
        for claim in manifest.certificate.claims:
            (line, *_) = (line for line in lines if claim.claim in line)
            assert ("yes" if claim.holds else "no") in line.split()
        assert "mismatching_rows" in table


def test_it_prints_figures_in_three_digits(fresh_export: Any) -> None:
    parity = Manifest.load(fresh_export.repository / "ln-mlp-digits" / "1").certificate.claims[1]
    assert parity.claim == "torch_onnx_parity"
    assert f"max_abs: {parity.measured['max_abs']:.3g}" in fresh_export.printed
    assert str(parity.measured["max_abs"]) not in fresh_export.printed


def test_an_unknown_name_is_refused_with_the_names_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("ln-mlp-digits", "ln-mlp-digit")
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "there is no model 'ln-mlp-digit'" in said
    assert all(name in said.partition("there is no model")[2] for name in CATALOG)


@pytest.mark.parametrize("name", RANDOM_MODELS)
@pytest.mark.parametrize("repository", [[], ["--repository", "artifacts"], ["--repository", "elsewhere/../artifacts"]])
def test_random_weights_are_not_written_into_artifacts(
    name: str,
    repository: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        run(name, *repository)
    assert caught.value.code == 2
    assert "name another folder with --repository" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_is_told_with_its_reason_and_the_next_is_tried(tmp_path: Path) -> None:
    status, printed = run("--repository", str(tmp_path), "bn-mlp-digits", "ln-mlp-digits")
    assert status == 1
    for name in ("bn-mlp-digits", "ln-mlp-digits"):
        assert f"{name} was not exported: {name} has no checkpoint" in printed
    assert "`python -m experiments digits-mlp`" in printed


def test_help_names_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert all(name in said for name in CATALOG)
