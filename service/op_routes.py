"""``/v1/ops``: the normalisation operations for people and the documentation page."""

from time import perf_counter
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.bodies import Bodies
from service.body import read_body
from service.call import arriving
from service.codec import check_finite
from service.errors import ModelNotFoundError, OutputTooLargeError, ServiceError, shown
from service.handlers import error_response
from service.json_numbers import written
from service.off_the_loop import JSON_COSTS, off_the_loop, size_of
from service.op_bodies import BODIES, OpAnswer, parse_body
from service.ops import DATATYPES_TAKEN, OPERATIONS, Operation
from service.protocol import DATATYPE_OF, Arrays, ErrorBody, OperationDescription
from service.repository import ModelRepository
from service.served import Plan, Served
from service.settings import Settings
from service.whole_response import WholeResponse

UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody, "description": "There is no such operation."}}
ERRORS = {
    400: "A value is not what the operation takes; the error names it and says what is allowed.",
    408: "The body did not come within the server's BODY_TIMEOUT_SECONDS.",
    413: "The body or the answer is larger than this server takes.",
    415: "A Content-Encoding other than identity, gzip or deflate.",
    429: "The queue is full, or too many bytes of bodies are being read; Retry-After says when to try again.",
    431: "The request's head is larger than the server's MAX_HEADER_BYTES.",
    500: "The operation failed; the server's log says why.",
    503: "The operations are being loaded, or were refused.",
    504: "Not answered within the server's REQUEST_TIMEOUT_MS.",
}


async def operations() -> list[OperationDescription]:
    """What each operation computes, its inputs, outputs and parameters, and the paper it comes from."""
    return [_described(operation) for operation in OPERATIONS.values()]


async def operation(name: str) -> OperationDescription:
    """One of them."""
    if name not in OPERATIONS:
        raise _unknown(name)
    return _described(OPERATIONS[name])


def _described(operation: Operation) -> OperationDescription:
    return OperationDescription(
        name=operation.name,
        formula=operation.formula,
        statistics_of=operation.statistics_of,
        source=operation.source,
        inputs=list(operation.inputs),
        outputs=list(operation.outputs),
        parameters=operation.described_parameters(),
        datatypes=list(DATATYPES_TAKEN),
        model=f"/v2/models/{operation.name}",
    )


async def _compute(name: str, request: Request) -> Response:
    repository: ModelRepository = request.app.state.repository
    settings: Settings = request.app.state.settings
    bodies: Bodies = request.app.state.bodies
    entry = repository.find(name)
    with entry.metrics.request(), entry.serving() as model:
        call = arriving(request.scope, settings.request_timeout_ms / 1e3, name)
        model.check()
        try:
            headers = dict(request.scope["headers"])
            body = await read_body(headers, request.receive, settings.max_body_bytes, call, bodies)
            started = perf_counter()
            plan, task = await bodies.decoded(len(body), len(body), _decoded, model, body)
            decoded = perf_counter()
            model.metrics.decode_seconds.observe(decoded - started)
            names, running = [each for each, _ in plan.wanted.outputs], model.run(plan, task, call)
            del body, plan, task  # or the request's tensors would be kept as long as its answer
        finally:
            bodies.let_go(call)
        outputs = await running  # which begins here: nothing comes between our count and the queue's
        wanted = {each: outputs[each] for each in names}
        if (size := size_of(wanted)) > settings.max_output_bytes:
            raise OutputTooLargeError(size, settings.max_output_bytes)
        computed = perf_counter()
        answer = await off_the_loop(JSON_COSTS * size, _answer, wanted)
        encoded = perf_counter()
        model.metrics.encode_seconds.observe(encoded - computed)
        if call.record is not None:
            call.record.decode, call.record.encode = (started, decoded), (computed, encoded)
    return WholeResponse(answer, b"application/json")


def _decoded(model: Served, body: bytes | bytearray) -> tuple[Plan, Any]:
    plan = model.plans.fresh(parse_body(model.name, body).request())
    return plan, plan.read(b"")


def _answer(outputs: Arrays) -> list[bytes]:
    """``{"y": ..., "datatype": ..., "shape": ...}`` and the other outputs, in parts."""
    for name, array in outputs.items():
        check_finite(name, array, "ask /v2 for binary")
    y = outputs["y"]
    described = {"datatype": DATATYPE_OF[y.dtype], "shape": list(y.shape)}
    parts = [b'{"y":', *written(np.ascontiguousarray(y)), b",", orjson.dumps(described)[1:-1]]
    for name, array in outputs.items():
        if name != "y":
            parts += [b',"%b":' % name.encode(), *written(np.ascontiguousarray(array))]
    return [*parts, b"}"]


def _unknown(name: str) -> ModelNotFoundError:
    return ModelNotFoundError(f"there is no operation {shown(name)}; the operations are {', '.join(OPERATIONS)}")


async def no_such_operation(name: str) -> Response:
    """Every path that is an operation's stands before this one."""
    raise _unknown(name)


def op_router() -> APIRouter:
    """The routes; each operation has a path of its own, so that its body has its own schema and example."""
    router = APIRouter(tags=["operations"])
    router.add_api_route("/v1/ops", operations, methods=["GET"])
    router.add_api_route("/v1/ops/{name}", operation, methods=["GET"], responses=UNKNOWN)
    for each in OPERATIONS.values():
        _add(router, each)
    router.add_api_route("/v1/ops/{name}", no_such_operation, methods=["POST"], include_in_schema=False)
    return router


def _add(router: APIRouter, operation: Operation) -> None:
    async def compute(request: Request) -> Response:
        try:
            return await _compute(operation.name, request)
        except ServiceError as error:  # its traceback holds the body: a client that reads nothing must not keep both
            return error_response(error)

    schema = BODIES[operation.name].model_json_schema()
    answer = {"application/json": {"schema": OpAnswer.model_json_schema()}}
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": words} for status, words in ERRORS.items()
    }
    router.add_api_route(
        f"/v1/ops/{operation.name}",
        compute,
        methods=["POST"],
        operation_id=operation.name,
        summary=operation.name,
        description=f"`{operation.formula}`\n\nStatistics are of {operation.statistics_of}. {operation.source}.",
        response_class=Response,
        responses={200: {"description": "What was computed.", "content": answer}, **errors},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": schema, "example": schema["example"]}},
            }
        },
    )
