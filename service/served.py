"""What the endpoints know of whatever is served under a model's name: a trained model, or a normalisation operation."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from service.codec import Wanted
from service.manifest import Certificate
from service.metrics import ModelMetrics
from service.protocol import Arrays, InferenceRequest, ModelMetadata


@dataclass(frozen=True)
class Call:
    """A decoded request: what its client wants to be answered with, and how the outputs are had."""

    wanted: Wanted
    run: Callable[[], Awaitable[Arrays]]


class Served(Protocol):
    """A model that answers."""

    @property
    def name(self) -> str:
        """The name it is asked for by."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def certificate(self) -> Certificate:
        """What was measured of it."""

    @property
    def metrics(self) -> ModelMetrics:
        """Its counters."""

    def decode(self, request: InferenceRequest) -> Call:
        """Check a request. Raises InvalidInputError and TooManyRowsError."""

    def metadata(self, versions: list[str]) -> ModelMetadata:
        """The answer of GET /v2/models/{name}."""

    def configuration(self) -> dict[str, Any]:
        """The answer of GET .../config."""

    async def close(self) -> None:
        """Answer what is queued, refuse what comes, end the threads."""
