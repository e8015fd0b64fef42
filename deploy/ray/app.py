"""The service on a Ray cluster: every replica of Ray Serve runs the application that ``python -m service`` runs.

Ray's proxies take the place of service/server.py and of service/workers.py: they listen, hand requests to replicas and
replace those that fail. What only our own server offers beyond ASGI the application does without (docs/ray.md).
"""

import asyncio
import math
from collections.abc import Mapping

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app import create_app
from service.cores import available_cores
from service.log import configure_logging
from service.request_id import REQUEST_ID, id_of, new_ids
from service.server import LEAST_GRACE_S
from service.settings import Settings, SettingError, read_settings

READY: Scope = {"type": "http", "method": "GET", "path": "/v2/health/ready", "query_string": b"", "headers": []}
LOOKS_AGAIN_S = 0.1  # while models load


def settings_of_replica(cpus: float) -> Settings:
    """Those of the environment, for one of as many processes as fit on this node. cpus: what Ray grants each.

    Ray counts cores and binds nobody to them, so a process sees those of its whole node: without this each replica
    would run as many instances as all of them together should. Raises SettingError and pydantic's ValidationError.
    """
    settings = read_settings([])
    if settings.workers != 1:
        raise SettingError("NORMSERVE_WORKERS must be 1 here: Ray's replicas are the workers")
    if settings.model_control != "none":
        raise SettingError("NORMSERVE_MODEL_CONTROL must be none here: only one replica would load or unload")
    beside = math.ceil(available_cores() / max(1, cpus))
    return settings.model_copy(update={"workers": beside})


def replica_app() -> ASGIApp:
    """Called in the replica, so that nothing of it is ever pickled."""
    granted: Mapping[str, float] = ray.get_runtime_context().get_assigned_resources()
    settings = settings_of_replica(granted.get("CPU", 1))
    configure_logging(settings)
    app, ids = create_app(settings), new_ids()

    async def with_request_id(scope: Scope, receive: Receive, send: Send) -> None:
        """Ray's proxy gives every request an id, and every answer that has none in its head; our log says it too."""
        if scope["type"] == "http":
            scope[REQUEST_ID] = id_of(scope["headers"], ids)
        await app(scope, receive, send)

    return with_request_id


async def readiness(app: ASGIApp) -> tuple[int, str, bool]:
    """What ``/v2/health/ready`` answers: the status, the text and whether it says to ask again."""
    start: Message = {}
    text = b""

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        nonlocal text
        if message["type"] == "http.response.start":
            start.update(message)
        text += message.get("body", b"")

    await app(dict(READY), receive, send)
    return start["status"], text.decode(), b"retry-after" in dict(start["headers"])


@serve.ingress(replica_app)
class Replica:
    """One process with all models."""

    app: ASGIApp  # set by Ray

    async def check_health(self) -> None:
        """Ray asks before the first request, and then every ten seconds; three failures end the replica.

        Waits while models load, so that a replica takes no request that another could answer. Raises RuntimeError.
        """
        while True:
            status, text, asks_again = await readiness(self.app)
            if not asks_again:
                break
            await asyncio.sleep(LOOKS_AGAIN_S)
        if status != 200:
            raise RuntimeError(f"not ready: {text}")


def build(_arguments: Mapping[str, str]) -> Application:
    """What ``serve run`` and ``serve deploy`` deploy; serve.yaml says how much of it."""
    settings = read_settings([])
    return serve.deployment(
        Replica,
        name="normserve",
        # As service/server.py waits for requests in flight.
        graceful_shutdown_timeout_s=max(LEAST_GRACE_S, settings.request_timeout_ms / 1e3) + 1,
        # Of requests that wait in a proxy; as ours of those that wait for a model.
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
    ).bind()
