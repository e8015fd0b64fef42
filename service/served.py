"""What the endpoints know of whatever is served under a model's name: a trained model, or a normalisation operation."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from service.call import Call
from service.codec import Wanted
from service.manifest import Certificate
from service.metrics import ModelMetrics
from service.protocol import Arrays, Buffer, InferenceRequest, ModelMetadata
from service.request import parse

KNOWN_HEADERS, KNOWN_BYTES = 256, 2048  # at most so many of so many bytes are kept: 5 MiB a model, once read
COPIED_BYTES = 2**16


class Plan(Protocol):
    """A request that was checked in everything but its tensors' values."""

    @property
    def wanted(self) -> Wanted:
        """What its client wants to be answered with."""

    def read(self, binary: Buffer) -> Any:
        """What the model runs, given the bytes behind the JSON. Raises InvalidInputError."""


class Plans:
    """A model's plans, by the JSON in front of a binary body, which a client sends again and again.

    For one row of ``layer_norm`` reading and checking it anew took 75 us, more than all else together.
    """

    def __init__(self, plan: Callable[[InferenceRequest], Plan]) -> None:
        self.fresh = plan
        self._known: dict[tuple[bytes, int], Plan] = {}

    def of(self, body: bytes | bytearray, length: int | None) -> tuple[Plan, Buffer]:
        """The plan, and the bytes behind the JSON, of which there are ``length``; None: it is all JSON.

        Raises InvalidInputError and TooManyRowsError.
        """
        if length is None:
            return self.fresh(parse(body, None)), b""
        # A small copy begins on a boundary, where its tensors would else be copied one by one. And a view would keep
        # large JSON for as long as its tensors wait, which the queue does not count.
        is_copied = len(body) <= COPIED_BYTES or length > COPIED_BYTES
        binary = body[length:] if is_copied else memoryview(body)[length:]
        if length > KNOWN_BYTES:
            return self.fresh(parse(body, length)), binary
        key = bytes(body[:length]), len(body)
        plan = self._known.get(key)
        if plan is None:
            request = parse(body, length)
            plan = self.fresh(request)
            if not all(isinstance(sent.data, slice) for sent in request.inputs):
                return plan, binary  # it holds values of its own
            if len(self._known) >= KNOWN_HEADERS:
                self._known.clear()  # large bodies are read in threads, and this is safe in any
            self._known[key] = plan
        return plan, binary


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

    @property
    def plans(self) -> Plans:
        """What requests ask of it."""

    def check(self) -> None:
        """Raises QueueFullError or ModelNotReadyError when no request could be run now, whatever it asks."""

    def run(self, plan: Any, inputs: Any, call: Call) -> Awaitable[Arrays]:
        """All outputs, for what one of its plans has read. Raises what :meth:`Batcher.submit` raises."""

    def metadata(self, versions: list[str]) -> ModelMetadata:
        """The answer of GET /v2/models/{name}."""

    def configuration(self) -> dict[str, Any]:
        """The answer of GET .../config."""

    async def close(self) -> None:
        """Answer what is queued, refuse what comes, end the threads."""
