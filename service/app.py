"""Where the parts meet: settings in, an application out. Nothing happens at import time."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access_log import access_log
from service.api_key import ApiKey, open_paths
from service.bodies import Bodies
from service.cors import Cors
from service.handlers import add_error_handlers
from service.home import home_routes, web_files
from service.infer import INFER_PATHS, Infer, leads_to_infer
from service.lifecycle import Lifecycle
from service.memory import bound_arenas
from service.metrics import Metrics
from service.model_control import ModelControl
from service.op_routes import op_router
from service.openapi import operation_id, use_own_openapi
from service.page import add_docs
from service.provider import provider_of
from service.queued_stream import standard_error
from service.repository import ModelRepository
from service.request_id import REQUEST_ID, current
from service.routes import router
from service.settings import Settings, refused
from service.tallies import Tallies
from service.version import VERSION
from service.watched import Tell, Watched

if TYPE_CHECKING:
    from service.traces import Traces

logger = logging.getLogger(__name__)

DESCRIPTION = """Layer-normalised PyTorch models over the Open Inference Protocol v2.

What you trained is what is served: the weights are the trained bytes, and an answer is bitwise the same alone and in
any batch, at any load, on any number of threads. `/v1/models/{name}/certificate` says what was measured of each model.
"""


def _log_failure(loading: asyncio.Task[None]) -> None:
    """Nobody waits for it until the end."""
    if not loading.cancelled() and (error := loading.exception()) is not None:
        logger.error("models cannot be loaded", exc_info=error)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Models are loaded while the server already answers its health checks.

    One of several workers loads them first: it shares its port with others, and must take none of the requests that
    those could answer.
    """
    bound_arenas()
    control: ModelControl = app.state.control
    app.state.repository.scan()
    loading = asyncio.create_task(control.start())
    loading.add_done_callback(_log_failure)
    if app.state.settings.workers > 1:
        await loading
    app.state.tallies.serve()
    try:
        yield
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await control.close()


def create_app(settings: Settings, lifecycle: Lifecycle | None = None, tallies: Tallies | None = None) -> ASGIApp:
    """The service for these settings; models load when it starts.

    lifecycle: where the server says that it is about to end. tallies: what one of several workers counts in.

    Raises SettingError when the execution provider or the precision they ask for is not to be had here.
    """
    provider = provider_of(settings)
    settings = settings.model_copy(update={"execution_provider": provider.name})  # which auto leaves open
    app = FastAPIOffline(
        title="normserve",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        docs_url=None,  # add_docs
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.lifecycle = lifecycle or Lifecycle()
    app.state.tallies = tallies or Tallies()
    app.state.metrics = Metrics(app.state.tallies)
    app.state.repository = ModelRepository(settings.model_repository, app.state.metrics)
    app.state.control = ModelControl(app.state.repository, settings, provider)
    app.state.bodies = Bodies(settings.max_bodies_bytes)
    infer = Infer(app.state.repository, settings, app.state.bodies)
    for path in INFER_PATHS:  # what answers other methods
        app.router.routes.append(Route(path, infer, methods=["POST"], include_in_schema=False))
    app.include_router(router)
    app.include_router(op_router())
    add_docs(app)
    home = web_files()
    app.router.routes.extend(home_routes(home))
    without_key = open_paths(metrics_without_key=settings.metrics_without_key) | {file.path for file in home}
    api_key = None if settings.api_key is None else ApiKey(settings.api_key, without_key)
    use_own_openapi(app, INFER_PATHS, without_key=None if api_key is None else without_key)
    add_error_handlers(app)

    set_request_id = current.set

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        if REQUEST_ID in scope:
            set_request_id(scope[REQUEST_ID])
        if scope["type"] != "http":
            await app(scope, receive, send)
        elif api_key is not None and (refusal := api_key.refusal(scope)) is not None:
            await refusal(scope, receive, send)
        elif leads_to_infer(scope):
            await infer(scope, receive, send)
        else:
            if scope["method"] == "HEAD":
                # Load balancers ask so; FastAPI does not know it. uvicorn has the scope as it was and sends no body.
                scope = {**scope, "method": "GET"}
            await app(scope, receive, send)

    answering: ASGIApp = front if settings.cors_origins is None else Cors(front, settings.cors_origins)
    tell: list[Tell] = []
    if settings.access_log:
        tell.append(access_log(settings.log_format, standard_error().write))
    traces = _traces_of(settings)
    if traces is not None:
        tell.append(traces.end)
    return Watched(answering, tell, None if traces is None else traces.begin) if tell else answering


def _traces_of(settings: Settings) -> "Traces | None":
    """Raises SettingError where they are asked for and OpenTelemetry is not installed."""
    if settings.traces == "none":
        return None
    try:
        from service.traces import Traces  # not above: an extra, which takes 0.13 s to import
    except ModuleNotFoundError as error:
        message = f"the extra traces is not installed ({error.name}): pip install 'normserve[traces]'"
        raise refused("traces", settings.traces, message) from error
    return Traces()
