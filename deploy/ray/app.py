"""The service on a Ray cluster: each replica of Ray Serve runs the application that ``python -m service`` runs.

Ray's proxies take the place of service/server.py and service/workers.py: they listen, hand requests to replicas and
replace those that fail. What only our server offers beyond ASGI the application does without (docs/ray.md).
"""

from collections.abc import Mapping

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from starlette.types import ASGIApp

from deploy.ray.replica import app_of_replica, check_ready, settings_of_replica
from service.log import configure_logging
from service.server import LEAST_GRACE_S
from service.settings import read_settings


def _app() -> ASGIApp:
    """Called in the replica: nothing of it is pickled, and its threads and sessions are of that process."""
    granted: Mapping[str, float] = ray.get_runtime_context().get_assigned_resources()
    settings = settings_of_replica(granted.get("CPU", 1))
    configure_logging(settings)
    return app_of_replica(settings)


@serve.ingress(_app)
class Replica:
    """One process with all models."""

    app: ASGIApp  # Ray sets it

    async def check_health(self) -> None:
        """Asked before the first request and every 10 s from then on; Ray replaces a replica that fails three times."""
        await check_ready(self.app)


def deployment() -> serve.Deployment:
    """What follows from the service; how many replicas of what size serve.yaml says."""
    settings = read_settings([])
    return serve.deployment(
        Replica,
        name="normserve",
        # As long as service/server.py waits for what is in flight.
        graceful_shutdown_timeout_s=max(LEAST_GRACE_S, settings.request_timeout_ms / 1e3) + 1,
        # Where more requests wait than serve.yaml lets: as the service answers where more wait for a model.
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
    )


def build(_arguments: Mapping[str, str]) -> Application:
    """What ``serve run`` and ``serve deploy`` look for."""
    return deployment().bind()
