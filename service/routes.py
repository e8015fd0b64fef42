"""The endpoints beside ``infer``: each parses, calls and formats."""

from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from service.bodies import UNCOUNTED_BYTES
from service.body import read_body
from service.call import Call
from service.cors import allowed_origins
from service.errors import ModelControlError, ModelNotReadyError
from service.manifest import Certificate
from service.metrics import Metrics
from service.model_control import ModelControl
from service.off_the_loop import JSON_COSTS, off_the_loop
from service.protocol import (
    ErrorBody,
    Live,
    ModelIndexEntry,
    ModelList,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
)
from service.repository import READY, ModelRepository
from service.request import parse_control, parse_index
from service.settings import Settings
from service.statistics import model_statistics
from service.version import VERSION

CONTROL_BYTES = UNCOUNTED_BYTES  # of a body that has no tensors
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]

UNKNOWN_MODEL: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorBody, "description": "There is no such model, or no such version of it."}
}
NOT_SERVED: dict[int | str, dict[str, Any]] = {
    **UNKNOWN_MODEL,
    503: {"model": ErrorBody, "description": "The model is being loaded, or was refused; the error says why."},
}

BAD_BODY: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The body is not as it must be."},
    413: {"model": ErrorBody, "description": "The body is larger than this server takes."},
    415: {"model": ErrorBody, "description": "A Content-Encoding other than identity, gzip or deflate."},
}
INDEX_REQUEST = {
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
            "example": {"ready": True},
        }
    }
}
CONTROL: dict[int | str, dict[str, Any]] = {
    **UNKNOWN_MODEL,
    400: {
        "model": ErrorBody,
        "description": "The body is not as it must be or has a parameter that is not taken, or it is an operation.",
    },
    403: {"model": ErrorBody, "description": "The server's setting MODEL_CONTROL is none."},
    413: {"model": ErrorBody, "description": "The body is larger than is taken."},
    415: {"model": ErrorBody, "description": "The Content-Encoding is none of identity, gzip and deflate."},
    503: {"model": ErrorBody, "description": "The server is about to end."},
}
LOAD: dict[int | str, dict[str, Any]] = {
    **CONTROL,
    409: {
        "model": ErrorBody,
        "description": "What is in the model's folder cannot be served; the error says why. All stays as it was.",
    },
}
UNLOAD_REQUEST = {
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "unload_dependents": {"type": "boolean", "description": "No model here has dependents."}
                        },
                    }
                },
            },
            "example": {"parameters": {"unload_dependents": False}},
        }
    }
}
LOAD_REQUEST = {
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"parameters": {"type": "object", "maxProperties": 0}},
            },
            "example": {},
        }
    }
}

router = APIRouter()


def _repository(request: Request) -> ModelRepository:
    repository: ModelRepository = request.app.state.repository
    return repository


def _control(request: Request) -> ModelControl:
    control: ModelControl = request.app.state.control
    return control


def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


Repository = Annotated[ModelRepository, Depends(_repository)]


@router.get("/v2", tags=["server"])
@router.get("/v2/", include_in_schema=False)  # the protocol has both; clients may not follow a redirect
async def server_metadata() -> ServerMetadata:
    """Name, version and protocol extensions of this server."""
    return ServerMetadata("normserve", VERSION, EXTENSIONS)


@router.get("/v2/health/live", tags=["server"])
async def live() -> Live:
    """200 as long as the process answers."""
    return Live(live=True)


@router.get("/v2/health/ready", tags=["server"], responses={503: {"model": ErrorBody, "description": "Not ready."}})
async def ready(request: Request, repository: Repository) -> Ready:
    """200 once every model has been tried and at least one serves, until the server is told to stop."""
    if request.app.state.lifecycle.is_draining:
        raise ModelNotReadyError("the server has been told to stop: send requests elsewhere")
    repository.check_ready()
    return Ready(ready=True)


@router.get("/v2/models", tags=["models"])
async def models(repository: Repository) -> ModelList:
    """The names of all models."""
    return ModelList(repository.names())


@router.get("/v2/models/stats", tags=["statistics"])
async def all_statistics(request: Request, repository: Repository) -> dict[str, Any]:
    """Counts and durations of every model that was found."""
    found = [(entry.name, entry.version) for entry in repository.index()]
    return model_statistics(_metrics(request), found)


@router.get("/v2/models/{name}", tags=["models"], responses=NOT_SERVED, response_model_exclude_none=True)
@router.get(
    "/v2/models/{name}/versions/{version}", tags=["models"], responses=NOT_SERVED, response_model_exclude_none=True
)
async def model_metadata(repository: Repository, name: str, version: str | None = None) -> ModelMetadata:
    """Inputs and outputs of a model: name, datatype and shape, where -1 is a size that varies.

    Of an operation also its parameters, and the datatypes it takes; its shape [-1] is any shape.
    """
    return repository.get(name, version).metadata([version] if version else repository.versions(name))


@router.get("/v2/models/{name}/ready", tags=["models"], responses=NOT_SERVED)
@router.get("/v2/models/{name}/versions/{version}/ready", tags=["models"], responses=NOT_SERVED)
async def model_ready(repository: Repository, name: str, version: str | None = None) -> ModelReady:
    """200 while the model serves, 503 with the reason while it does not."""
    return ModelReady(repository.get(name, version).name, ready=True)


@router.get("/v2/models/{name}/config", tags=["models"], responses=NOT_SERVED)
@router.get("/v2/models/{name}/versions/{version}/config", tags=["models"], responses=NOT_SERVED)
async def configuration(repository: Repository, name: str, version: str | None = None) -> dict[str, Any]:
    """How the model is run: whether its requests are batched and why, instances, threads, bounds of its inputs."""
    return repository.get(name, version).configuration()


@router.get("/v2/models/{name}/stats", tags=["statistics"], responses=UNKNOWN_MODEL)
@router.get("/v2/models/{name}/versions/{version}/stats", tags=["statistics"], responses=UNKNOWN_MODEL)
async def statistics(request: Request, repository: Repository, name: str, version: str | None = None) -> dict[str, Any]:
    """Counts and durations of one model: of the version named, or of each of its versions."""
    versions = repository.versions(name) if version is None else [repository.version_of(name, version)]
    return model_statistics(_metrics(request), [(name, each) for each in versions])


@router.post("/v2/repository/index", tags=["models"], responses=BAD_BODY, openapi_extra={"requestBody": INDEX_REQUEST})
async def repository_index(request: Request, repository: Repository) -> list[ModelIndexEntry]:
    """Every model that was found, with its state and, where it is not served, the reason.

    `{"ready": true}` asks only for those that serve.
    """
    only_ready = parse_index(await _control_body(request))
    return [entry for entry in repository.index() if entry.state == READY or not only_ready]


@router.post(
    "/v2/repository/models/{name}/load", tags=["models"], responses=LOAD, openapi_extra={"requestBody": LOAD_REQUEST}
)
async def load_model(request: Request, repository: Repository, name: str) -> list[ModelIndexEntry]:
    """Serve what is in the model's folder now: new versions, changed files; versions that are gone are not served.

    Files and certificate are checked as at start. Until all versions can be served nothing changes, and no request is
    lost: those under way are answered by what they began on. Only with the setting MODEL_CONTROL=explicit.
    """
    await _check_control(request, ())
    await _control(request).load(name)
    return [entry.indexed() for entry in repository.named(name)]


@router.post(
    "/v2/repository/models/{name}/unload",
    tags=["models"],
    responses=CONTROL,
    openapi_extra={"requestBody": UNLOAD_REQUEST},
)
async def unload_model(request: Request, repository: Repository, name: str) -> list[ModelIndexEntry]:
    """Serve the model no more, and give its memory back once requests under way are answered.

    Only with the setting MODEL_CONTROL=explicit.
    """
    await _check_control(request, ("unload_dependents",))
    await _control(request).unload(name)
    return [entry.indexed() for entry in repository.named(name)]


async def _check_control(request: Request, takes: tuple[str, ...]) -> None:
    """Whether models may be loaded and unloaded, and the body is as it must be: of parameters it has only these."""
    settings = _settings(request)
    if settings.model_control != "explicit":
        raise ModelControlError
    origin = request.headers.get("origin")  # a browser asks for any page, and only then whether it may have the answer
    if origin is not None and not (
        urlsplit(origin).netloc == request.headers.get("host") or origin in allowed_origins(settings.cors_origins)
    ):
        raise ModelControlError(origin)
    if request.app.state.lifecycle.is_draining:
        raise ModelNotReadyError("the server has been told to stop: no model is loaded or unloaded any more")
    body = await _control_body(request)
    await off_the_loop(JSON_COSTS * len(body), parse_control, body, takes)


async def _control_body(request: Request) -> bytes | bytearray:
    most = min(_settings(request).max_body_bytes, CONTROL_BYTES)
    return await read_body(dict(request.scope["headers"]), request.receive, most, Call(0), None)


@router.get("/v1/models/{name}/certificate", tags=["certificate"], responses=NOT_SERVED)
@router.get("/v1/models/{name}/versions/{version}/certificate", tags=["certificate"], responses=NOT_SERVED)
async def model_certificate(repository: Repository, name: str, version: str | None = None) -> Certificate:
    """What was measured of the model: at export, and on this machine when it was loaded."""
    return repository.get(name, version).certificate


@router.get("/metrics", tags=["statistics"], response_class=Response)
async def prometheus_metrics(request: Request) -> Response:
    """Counters and histograms for Prometheus."""
    return Response(_metrics(request).render(), media_type="text/plain; version=0.0.4; charset=utf-8")
