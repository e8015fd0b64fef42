"""Every knob of the service: environment variables ``NORMSERVE_*``, and flags of ``python -m service``."""

import os
import re
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

PREFIX = "NORMSERVE_"
SECRETS = {"api_key"}  # whose values no message shows
API_KEY = re.compile(r"[!-~]+")  # visible ASCII: what every client sends in a header, and sends as the same bytes
PROGRAM = "python -m service"
# Of the flags in --help: each group and its first setting; those up to the next group's stand in it as well.
GROUPS = {
    "host": "where to listen",
    "model_repository": "models",
    "execution_provider": "what computes them",
    "max_batch_size": "batches, and what waits for them",
    "request_timeout_ms": "limits of time and size",
    "model_control": "who may ask for what",
    "log_format": "logs and traces",
}
ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]+)?|https?://\[[0-9A-Fa-f:]+\](:[0-9]+)?")


class SettingError(ValueError):
    """A setting is unknown, or asks for what this machine has not; the message is for whoever starts the service."""


class Settings(BaseSettings):
    """Serve trained, layer-normalised models over HTTP (Open Inference Protocol v2)."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        hide_input_in_errors=True,  # one of them is a secret; said_of shows the others
    )

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 opens the service to the network.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model_repository: Path = Field(Path("artifacts"), description="Folder of models: <name>/<version>/manifest.json.")
    execution_provider: Literal["cpu", "openvino", "cuda", "auto"] = Field(
        "cpu",
        description="What computes the models: onnxruntime's own kernels, OpenVINO's, which the extra openvino "
        "installs, or an NVIDIA GPU by the extra gpu; `auto` takes the GPU where that is to be had, else cpu. "
        "The normalisation operations are always computed on cpu.",
    )
    gpu_memory_bytes: int | None = Field(
        None,
        ge=1,
        description="What the arena of one session may take of the GPU's memory, beside CUDA's own; there is a session "
        "for every instance of every model. None given: all there is.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="What it computes in. bf16: faster, with an error of hundredths; only openvino has it, "
        "and only on a processor with AMX-BF16 or AVX512-BF16.",
    )
    certificate: Literal["enforce", "report"] | None = Field(
        None,
        description="What becomes of a model of which a claim that held at export does not hold here: "
        "`enforce` refuses to serve it, `report` serves it and says so in its certificate; "
        "none given: `enforce`, with cuda or bf16 `report`.",
    )
    workers: int = Field(
        1,
        ge=1,
        description="Processes that serve the port, each with all models and an even share of the cores. Bounds, such "
        "as max_queue_size, are each one's own; statistics and metrics are totals.",
    )
    instances: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Batches of one model that run at the same time in a worker; none given: as many as it has cores, "
        "over the threads; with cuda 1.",
    )
    intra_op_threads: int = Field(
        1,
        ge=1,
        le=1024,
        description="Threads of one run; a run that has the machine to itself has those of every core.",
    )
    max_batch_size: int = Field(
        64, ge=1, description="Rows merged into one run. A request of more rows runs alone, up to the model's max_rows."
    )
    max_queue_delay_ms: float = Field(
        0.0, ge=0, le=60_000, description="Wait for more rows: adds latency, fills batches. 0 takes what is queued."
    )
    max_queue_size: int = Field(256, ge=1, description="Waiting requests of one model; beyond it we answer 429.")
    max_queue_bytes: int = Field(
        256 * 2**20, ge=1, description="Bytes of waiting requests of one model; beyond it we answer 429."
    )
    request_timeout_ms: int = Field(
        30_000,
        ge=1,
        le=86_400_000,
        description="From a request's arrival; an answer that would come later is 504, and not computed if it has not "
        "begun. A request's own parameter timeout, in microseconds, can only shorten it.",
    )
    drain_seconds: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="After SIGTERM: so long we are not ready and still serve everything, each answer with "
        "`Connection: close`. Then we listen no more, and end when what is in flight is answered.",
    )
    header_timeout_seconds: float = Field(
        10.0,
        gt=0,
        le=86_400,
        description="For a request's head, and for the first of a new connection; beyond it we answer 408.",
    )
    body_timeout_seconds: float = Field(
        30.0,
        gt=0,
        le=86_400,
        description="For a request's body, beyond it we answer 408; and for a client that takes nothing of its answer, "
        "which is then cut off.",
    )
    max_header_bytes: int = Field(
        32 * 2**10, ge=256, description="Of a request's head, names and values together; beyond it we answer 431."
    )
    max_connections: int = Field(
        1024, ge=1, description="Open at the same time; requests on those beyond it are answered 503 and closed."
    )
    max_output_bytes: int = Field(
        64 * 2**20, ge=1, description="Of the tensors of one answer; beyond it we answer 413."
    )
    max_body_bytes: int = Field(
        64 * 2**20, ge=1, description="Largest request body, also after inflating; beyond it we answer 413."
    )
    max_bodies_bytes: int = Field(
        2**30,  # 16 of the largest bodies, and as good as never in the way of others: 3000 of 300 KiB
        ge=1,
        validate_default=True,
        description="Of all request bodies that are being received, inflated or decoded, beyond it we answer 429; and "
        "as much again for what large ones are decoded into, where they take turns. At least max_body_bytes. Bodies "
        "up to 64 KiB are not counted.",
    )

    model_control: Literal["none", "explicit"] = Field(
        "none",
        description="`explicit`: who may ask this server may also have models loaded anew from their folders, and "
        "unloaded (POST /v2/repository/models/{name}/load and /unload); `none` answers 403 to that. Not with several "
        "workers, of which only the one that is asked would do it.",
    )
    api_key: SecretStr | None = Field(
        None,
        description="Who asks must show it, as `Authorization: Bearer KEY` or `X-API-Key: KEY`; else we answer 401. "
        "/v2/health and the page at / stay open. Better set by the variable than by the flag, which every user of the "
        "machine can read.",
    )
    metrics_without_key: bool = Field(
        False, description="With an API key: /metrics is open all the same, with the names of all models."
    )
    cors_origins: str | None = Field(
        None,
        description="Web sites whose pages may ask this server, as https://HOST[:PORT] with commas between them, or *; "
        "none given: no other than its own.",
    )
    log_format: Literal["text", "json"] = Field("text", description="A line of text or a JSON object for each event.")
    access_log: bool = Field(
        False, description="A line for each request as well, written by a thread; a reader that is too slow loses some."
    )

    traces: Literal["none", "otlp"] = Field(
        "none",
        description="`otlp`: spans of each request by OpenTelemetry, which the extra traces installs, sent to where "
        "OTEL_EXPORTER_OTLP_ENDPOINT says.",
    )

    @field_validator("model_repository")
    @classmethod
    def _holds_models(cls, folder: Path) -> Path:
        if not folder.is_dir():
            raise ValueError(f"there is no such folder; this is {str(Path.cwd())!r}")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise ValueError("this process may not read it")
        here = folder.resolve()
        if (here / "manifest.json").exists():
            raise ValueError(f"this is one version of one model; the folder of all models is {str(here.parents[1])!r}")
        if any(here.glob("*/manifest.json")):
            raise ValueError(f"this is one model; the folder of all models is {str(here.parent)!r}")
        return folder

    @field_validator("api_key")
    @classmethod
    def _can_be_sent(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not API_KEY.fullmatch(key.get_secret_value()):
            raise ValueError("it must have at least one character, and only visible ASCII ones without spaces")
        return key

    @field_validator("model_control")
    @classmethod
    def _is_of_one_worker(cls, control: str, info: ValidationInfo) -> str:
        if control == "explicit" and (workers := info.data.get("workers", 1)) > 1:
            raise ValueError(f"with {workers} workers it must be 'none': only one of them would load or unload")
        return control

    @field_validator("max_bodies_bytes")
    @classmethod
    def _holds_the_largest_body(cls, max_bytes: int, info: ValidationInfo) -> int:
        if max_bytes < (largest := info.data.get("max_body_bytes", 0)):
            raise ValueError(f"it must be at least MAX_BODY_BYTES, {largest}: one body could fill it")
        return max_bytes

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: str | None) -> str | None:
        for origin in () if origins in (None, "*") else origins.split(","):
            if not ORIGIN.fullmatch(origin.strip()):
                raise ValueError(f"{origin.strip()!r} must be https://HOST or https://HOST:PORT, without a path, or *")
        return origins


def unknown_variables() -> list[str]:
    """The variables of the environment that look like settings and are none: a typing error must not go unnoticed."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)


def read_settings(arguments: Sequence[str]) -> Settings:
    """Settings from the environment and from flags, which win. Raises SettingError and pydantic's ValidationError."""
    if unknown := unknown_variables():
        known = ", ".join(PREFIX + name.upper() for name in Settings.model_fields)
        raise SettingError(f"unknown setting {', '.join(unknown)}; the settings are {known}")
    return Settings(_cli_settings_source=_flags(arguments))


def _flags(arguments: Sequence[str]) -> CliSettingsSource[Any]:
    """What the flags say; their --help in groups."""
    parser = ArgumentParser(
        PROGRAM,
        usage=f"{PROGRAM} [flags]\n       {PROGRAM} check MODEL_REPOSITORY [flags]",
        description=f"{Settings.__doc__} `check` verifies artifacts and measures their certificates, without serving.",
        epilog=f"Each flag is a variable of the environment as well: --max-batch-size is {PREFIX}MAX_BATCH_SIZE.",
        allow_abbrev=False,
    )
    group = parser.add_argument_group()

    def add(_parser: object, flag: str, *, dest: str, help: str, **more: Any) -> None:  # noqa: A002  # argparse's word
        nonlocal group
        if dest in GROUPS:
            group = parser.add_argument_group(GROUPS[dest])
        if more.get("metavar") == "SecretStr":
            more["metavar"] = "str"
        group.add_argument(flag, dest=dest, help=help.removesuffix(" (default: null)"), **more)

    return CliSettingsSource(Settings, cli_parse_args=list(arguments), root_parser=parser, add_argument_method=add)


def said_of(problem: Mapping[str, Any]) -> str:
    """What pydantic found wrong with one setting, in the words of whoever set it: its flag, its variable, its value."""
    name = str(problem["loc"][0]) if problem["loc"] else ""
    if name not in Settings.model_fields:
        return f"{name}: {problem['msg']}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return _said(name, problem["input"], message)


def refused(name: str, value: object, message: str) -> SettingError:
    """The error of a setting that is sound and cannot be had here, in the words of ``said_of``."""
    return SettingError(_said(name, value, message))


def _said(name: str, value: object, message: str) -> str:
    called = f"--{name.replace('_', '-')} ({PREFIX + name.upper()})"
    return f"{called}: {message}" if name in SECRETS else f"{called} is {str(value)!r}: {message}"
