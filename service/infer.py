"""POST /v2/models/{name}[/versions/{version}]/infer: body -> arrays -> batch -> arrays -> body.

An ASGI application of its own, called before any router or middleware: on the way to it FastAPI and Starlette take
22 us, more than onnxruntime for ``layer_norm`` of one row. ``openapi.py`` documents it by hand.
"""

import logging
from time import perf_counter
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service import codec
from service.bodies import Bodies
from service.body import read_body
from service.call import arriving
from service.errors import OutputTooLargeError, ServiceError
from service.handlers import error_response, unexpected_response
from service.off_the_loop import JSON_COSTS, off_the_loop
from service.protocol import HEADER_LENGTH, Arrays
from service.repository import ModelRepository
from service.request import json_length
from service.served import Plan, Served
from service.settings import Settings
from service.whole_response import WholeResponse

logger = logging.getLogger(__name__)

INFER_PATHS = ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")
_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
_JSON, _BINARY = b"application/json", b"application/octet-stream"


class Infer:
    """The endpoint."""

    def __init__(self, repository: ModelRepository, settings: Settings, bodies: Bodies) -> None:
        self._repository = repository
        self._bodies = bodies
        self._timeout_s = settings.request_timeout_ms / 1e3
        self._max_body_bytes = settings.max_body_bytes
        self._max_output_bytes = settings.max_output_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; ``scope`` has the path's parameters."""
        name, version = scope["path_params"]["name"], scope["path_params"].get("version")
        response: Response
        try:
            entry = self._repository.find(name, version)
            with entry.metrics.request(), entry.serving() as model:
                response = await self._answer(model, scope, receive)
        except ServiceError as error:
            response = error_response(error)
        except Exception:
            logger.exception("a request for %s failed", name)
            response = unexpected_response()
        await response(scope, receive, send)

    async def _answer(self, model: Served, scope: Scope, receive: Receive) -> WholeResponse:
        call = arriving(scope, self._timeout_s, model.name)
        model.check()  # under overload, reading what cannot be run would take from what can
        headers = dict(scope["headers"])
        try:
            body = await read_body(headers, receive, self._max_body_bytes, call, self._bodies)
            header = headers.get(_HEADER_LENGTH)
            started = perf_counter()
            length = None if header is None else json_length(header, len(body))
            json_bytes = len(body) if length is None else length
            plan, inputs = await self._bodies.decoded(len(body), json_bytes, _decoded, model, body, length)
            decoded = perf_counter()
            wanted = plan.wanted
            call.ask(wanted.timeout_s, is_urgent=wanted.is_urgent)
            running = model.run(plan, inputs, call)
            del body, plan, inputs  # or the request's tensors would be kept as long as its answer
        finally:
            if call.body_bytes:  # not of a small one, which is spared the call
                self._bodies.let_go(call)
        outputs = await running  # which begins here: nothing comes between our count and the queue's
        computed = perf_counter()
        size = sum(outputs[name].nbytes for name, _ in wanted.outputs)
        if size > self._max_output_bytes:
            raise OutputTooLargeError(size, self._max_output_bytes)
        work = size * (1 if wanted.is_binary else JSON_COSTS)
        response = await off_the_loop(work, _encoded, model, wanted, outputs)
        encoded = perf_counter()
        model.metrics.decode_seconds.observe(decoded - started)
        model.metrics.encode_seconds.observe(encoded - computed)
        if call.record is not None:
            call.record.decode, call.record.encode = (started, decoded), (computed, encoded)
        return response


def _decoded(model: Served, body: bytes | bytearray, length: int | None) -> tuple[Plan, Any]:
    """A function of its own, so that body and JSON values are free again while the request waits for its run."""
    plan, binary = model.plans.of(body, length)
    return plan, plan.read(binary)


def _encoded(model: Served, wanted: codec.Wanted, outputs: Arrays) -> WholeResponse:
    text, tensors = codec.encode(wanted, model.name, model.version, outputs)
    if not tensors:
        return WholeResponse(text, _JSON)
    length = (_HEADER_LENGTH, b"%d" % sum(map(len, text)))
    return WholeResponse([*text, *tensors], _BINARY, length)


def leads_to_infer(scope: Scope) -> bool:
    """Whether a request is one for the endpoint; if so, ``scope`` gets the path's parameters, as from a router."""
    match scope["path"].split("/"):
        case ["", "v2", "models", name, "infer"] if name and scope["method"] == "POST":
            scope["path_params"] = {"name": name}
        case ["", "v2", "models", name, "versions", version, "infer"] if name and version and scope["method"] == "POST":
            scope["path_params"] = {"name": name, "version": version}
        case _:
            return False
    return True
