import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import PREFIX, Settings, read_settings

ROOT = Path(__file__).parents[2]
NONE_GIVEN = {
    "certificate": "by precision",
    "instances": "the cores",
}  # what the README says of those without a default


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_defaults_serve_the_committed_artifacts_on_this_machine_only() -> None:
    settings = read_settings([])
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.model_repository == Path("artifacts")


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMSERVE_PORT", "9000")
    monkeypatch.setenv("NORMSERVE_MAX_BATCH_SIZE", "7")
    settings = read_settings(["--port", "9001"])
    assert (settings.port, settings.max_batch_size) == (9001, 7)


def test_an_unknown_variable_is_refused_with_the_names_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMSERVE_MAX_BATCHSIZE", "7")
    with pytest.raises(ValueError, match=r"unknown setting NORMSERVE_MAX_BATCHSIZE.*NORMSERVE_MAX_BATCH_SIZE"):
        read_settings([])


@pytest.mark.parametrize(
    ("flags", "wrong"),
    [
        (["--port", "70000"], "port"),
        (["--max-batch-size", "0"], "max_batch_size"),
        (["--max-queue-delay-ms", "-1"], "max_queue_delay_ms"),
        (["--certificate", "ignore"], "certificate"),
        (["--execution-provider", "cuda"], "execution_provider"),
        (["--precision", "int8"], "precision"),
        (["--model-repository", "nowhere"], "there is no such folder"),
        (["--model-repository", "artifacts/ln-mlp-digits"], "one model; the folder of all models is '.*/artifacts'"),
        (["--model-repository", "artifacts/ln-mlp-digits/1"], "one version of one model; .* is '.*/artifacts'"),
    ],
)
def test_a_wrong_value_is_named(flags: list[str], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        read_settings(flags)


def test_every_setting_says_what_it_is_for() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_readme_lists_exactly_the_settings_with_their_defaults() -> None:
    rows = re.findall(rf"^\| `{PREFIX}(\w+)` \| `?(.*?)`? \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    expected = {
        name.upper(): NONE_GIVEN[name] if field.default is None else str(field.default)
        for name, field in Settings.model_fields.items()
    }
    assert dict(rows) == expected
