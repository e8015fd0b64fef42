"""Where the parts meet: settings in, an application out. Nothing happens at import time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.handlers import add_error_handlers
from service.infer import INFER_PATHS, Infer, leads_to_infer
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.op_routes import op_router
from service.openapi import use_own_openapi
from service.provider import provider_of
from service.repository import ModelRepository
from service.routes import router
from service.settings import Settings
from service.tallies import Tallies
from service.version import VERSION

DESCRIPTION = """Layer-normalised PyTorch models over the Open Inference Protocol v2.

What you trained is what is served: the weights are the trained bytes, and an answer is bitwise the same alone and in
any batch, at any load, on any number of threads. `/v1/models/{name}/certificate` says what was measured of each model.
"""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Models are loaded while the server already answers its health checks.

    One of several workers loads them first: it shares its port with others, and must take none of the requests that
    those could answer.
    """
    repository: ModelRepository = app.state.repository
    repository.scan()
    loading = asyncio.create_task(repository.load())
    if app.state.settings.workers > 1:
        await loading
    app.state.tallies.serve()
    try:
        yield
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await repository.close()


def create_app(settings: Settings, lifecycle: Lifecycle | None = None, tallies: Tallies | None = None) -> ASGIApp:
    """The service for these settings; models load when it starts.

    lifecycle: where the server says that it is about to end. tallies: what one of several workers counts in.

    Raises SettingError when the execution provider or the precision they ask for is not to be had here.
    """
    provider = provider_of(settings)
    app = FastAPIOffline(
        title="normserve",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.lifecycle = lifecycle or Lifecycle()
    app.state.tallies = tallies or Tallies()
    app.state.metrics = Metrics(app.state.tallies)
    app.state.repository = ModelRepository(settings, app.state.metrics, provider)
    infer = Infer(app.state.repository, settings)
    for path in INFER_PATHS:  # what answers other methods
        app.router.routes.append(Route(path, infer, methods=["POST"], include_in_schema=False))
    app.include_router(router)
    app.include_router(op_router())
    use_own_openapi(app, INFER_PATHS)
    add_error_handlers(app)

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and leads_to_infer(scope):
            await infer(scope, receive, send)
        else:
            await app(scope, receive, send)

    return front
