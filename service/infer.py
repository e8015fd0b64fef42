"""POST /v2/models/{name}[/versions/{version}]/infer: body -> arrays -> batch -> arrays -> body.

An ASGI application of its own, called before any router or middleware: on the way to it FastAPI and Starlette take
22 us, more than onnxruntime for ``layer_norm`` of one row. ``openapi.py`` documents it by hand.
"""

import logging
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service import codec
from service.body import read_body
from service.errors import ServiceError
from service.handlers import error_response, unexpected_response
from service.off_the_loop import JSON_COSTS, SIMD_JSON_COSTS, off_the_loop, size_of
from service.protocol import HEADER_LENGTH, Arrays
from service.repository import ModelRepository
from service.request import json_length
from service.served import Plan, Served
from service.tensor_response import TensorResponse

logger = logging.getLogger(__name__)

INFER_PATHS = ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")
_BEFORE, _BETWEEN, _AFTER = "/v2/models/", "/versions/", "/infer"
_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
_JSON, _BINARY = b"application/json", b"application/octet-stream"


class Infer:
    """The endpoint."""

    def __init__(self, repository: ModelRepository, max_body_bytes: int) -> None:
        self._repository = repository
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; ``scope`` has the path's parameters."""
        name, version = scope["path_params"]["name"], scope["path_params"].get("version")
        response: Response
        try:
            entry = self._repository.find(name, version)
            with entry.metrics.request():
                response = await self._answer(entry.serving(), dict(scope["headers"]), receive)
        except ServiceError as error:
            response = error_response(error)
        except Exception:
            logger.exception("a request for %s failed", name)
            response = unexpected_response()
        await response(scope, receive, send)

    async def _answer(self, model: Served, headers: dict[bytes, bytes], receive: Receive) -> TensorResponse:
        body = await read_body(headers, receive, self._max_body_bytes)
        header = headers.get(_HEADER_LENGTH)
        length = len(body) if header is None else json_length(header.decode("latin-1"), len(body))
        with model.metrics.decoding():
            work = len(body) + (SIMD_JSON_COSTS - 1) * length
            plan, inputs = await off_the_loop(work, _decoded, model, body, None if header is None else length)
        wanted, running = plan.wanted, model.run(plan, inputs)
        del body, plan, inputs  # or the request's tensors would be kept as long as its answer
        outputs = await running
        with model.metrics.encoding():
            work = size_of(outputs) * (1 if wanted.is_binary else JSON_COSTS)
            answer = await off_the_loop(work, _encoded, model, wanted, outputs)
        if not answer.tensors:
            return TensorResponse(answer.text, _JSON)
        header = b"%d" % sum(map(len, answer.text))
        return TensorResponse([*answer.text, *answer.tensors], _BINARY, {_HEADER_LENGTH: header})


def _decoded(model: Served, body: bytes | bytearray, length: int | None) -> tuple[Plan, Any]:
    """A function of its own, so that body and JSON values are free again while the request waits for its run."""
    plan, binary = model.plans.of(body, length)
    return plan, plan.read(binary)


def _encoded(model: Served, wanted: codec.Wanted, outputs: Arrays) -> codec.Answer:
    return codec.encode(wanted, model.name, model.version, outputs)


def leads_to_infer(scope: Scope) -> bool:
    """Whether a request is one for the endpoint; if so, ``scope`` gets the path's parameters, as from a router."""
    path: str = scope["path"]
    if not path.startswith(_BEFORE) or not path.endswith(_AFTER) or scope["method"] != "POST":
        return False
    name, between, version = path[len(_BEFORE) : -len(_AFTER)].partition(_BETWEEN)
    if not name or "/" in name or "/" in version or bool(between) != bool(version):
        return False
    scope["path_params"] = {"name": name, "version": version or None}
    return True
