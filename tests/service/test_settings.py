import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import GROUPS, PREFIX, Settings, read_settings, said_of

ROOT = Path(__file__).parents[2]
NONE_GIVEN = {
    "certificate": "by provider",
    "gpu_memory_bytes": "all there is",
    "instances": "the cores",
    "api_key": "none",
    "cors_origins": "none",
}  # what docs/settings.md says of those without a default


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
        (["--execution-provider", "tensorrt"], "execution_provider"),
        (["--gpu-memory-bytes", "0"], "gpu_memory_bytes"),
        (["--precision", "int8"], "precision"),
        (["--instances", "1000000"], "instances\n.*less than or equal to 1024"),
        (["--intra-op-threads", "100000"], "intra_op_threads"),
        (["--header-timeout-seconds", "inf"], "header_timeout_seconds"),
        (["--log-format", "xml"], "log_format"),
        (["--metrics-without-key", "perhaps"], "metrics_without_key"),
        (["--cors-origins", "a.example"], "'a.example' must be https://HOST or https://HOST:PORT"),
        (["--cors-origins", "https://a.example,https://b.example/"], "'https://b.example/' must be"),
        (["--cors-origins", "https://a.example,*"], "'\\*' must be"),
        (["--cors-origins", ""], "'' must be"),
        (["--model-control", "poll"], "model_control"),
        (["--model-control", "explicit", "--workers", "2"], "with 2 workers it must be 'none'"),
        (["--workers", "2", "--model-control", "explicit"], "with 2 workers it must be 'none'"),
        (["--max-bodies-bytes", "1000"], "it must be at least MAX_BODY_BYTES, 67108864"),
        (["--max-body-bytes", "1073741825"], "max_bodies_bytes\n.*it must be at least MAX_BODY_BYTES, 1073741825"),
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


def test_each_group_of_flags_begins_with_a_setting_and_none_is_left_out() -> None:
    names = list(Settings.model_fields)
    assert next(iter(GROUPS)) == names[0]
    assert [names.index(name) for name in GROUPS] == sorted(names.index(name) for name in GROUPS)


def test_the_page_lists_exactly_the_settings_with_their_defaults() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    rows = re.findall(rf"^\| `{PREFIX}(\w+)` \| `?(.*?)`? \|", page, re.MULTILINE)
    expected = {
        name.upper(): NONE_GIVEN[name] if field.default is None else str(field.default)
        for name, field in Settings.model_fields.items()
    }
    assert dict(rows) == expected


def test_the_readme_names_every_setting() -> None:
    section = re.search(r"^## Settings$.*?^\| of .*?\n\n", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert section
    rows = section[0].partition("|---|---|")[2]
    assert re.findall(r"`(\w+)`", rows) == [name.upper() for name in Settings.model_fields]


@pytest.mark.parametrize("key", ["", " ", "two words", "line\nbreak", "schlüssel", "tab\t", "\x7f"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("NORMSERVE_API_KEY", key)
    with pytest.raises(ValidationError) as raised:
        read_settings([])
    (problem,) = raised.value.errors(include_url=False)
    assert said_of(problem) == (
        "--api-key (NORMSERVE_API_KEY): it must have at least one character, and only visible ASCII ones without spaces"
    )
    assert not key.strip() or key not in str(raised.value)


def test_no_representation_of_the_settings_has_the_key() -> None:
    settings = read_settings(["--api-key", "s3cret"])
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "s3cret"
    for text in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert "api_key" in text
        assert "s3cret" not in text


@pytest.mark.parametrize("origins", ["*", "https://a.example", "http://localhost:3000, https://[::1]:8443"])
def test_origins_are_addresses_without_a_path(origins: str) -> None:
    assert read_settings(["--cors-origins", origins]).cors_origins == origins
