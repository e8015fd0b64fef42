"""Every failure, FastAPI's own included, leaves as ``{"error": "..."}``."""

import logging
import re
from http import HTTPStatus

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.errors import STATUS, InferenceError, ServiceError
from service.whole_response import WholeResponse

logger = logging.getLogger(__name__)


def _methods_at(request: Request, error: HTTPException) -> str:
    """Every method of the path. Starlette's own header names those of the first of its routes alone."""
    methods = set((error.headers or {}).get("Allow", "").replace(" ", "").split(",")) - {""}
    for path, item in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), request.url.path):
            methods |= {method.upper() for method in item}
    return ", ".join(sorted(methods))


def error_response(error: ServiceError) -> Response:
    """What a failed request is answered with: cheaply, for under overload most are."""
    if isinstance(error, InferenceError):  # the run that failed was logged where no request is known
        logger.error("answered 500: %s", error)
    retry_after = None if error.retry_after_seconds is None else (b"retry-after", b"%d" % error.retry_after_seconds)
    return WholeResponse([orjson.dumps({"error": str(error)})], b"application/json", retry_after, STATUS[type(error)])


def unexpected_response() -> JSONResponse:
    """What a bug is answered with: the log has the traceback, the caller learns nothing of the inside."""
    return JSONResponse({"error": "the server failed on this request; its log says why"}, 500)


def add_error_handlers(app: FastAPI) -> None:
    """Replace FastAPI's ``{"detail"}`` bodies."""

    @app.exception_handler(ServiceError)
    async def service_error(_request: Request, error: ServiceError) -> Response:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def http_exception(request: Request, error: HTTPException) -> JSONResponse:
        message = error.detail
        if error.status_code == HTTPStatus.NOT_FOUND:
            message = "there is nothing at this path; /docs lists what there is"
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = _methods_at(request, error)
            message = f"{request.method} is not allowed here, it must be {allowed.replace(', ', ' or ')}"
            return JSONResponse({"error": message}, error.status_code, {"Allow": allowed})
        return JSONResponse({"error": message}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"error": f"{where}: {first['msg']}"}, HTTPStatus.BAD_REQUEST)

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, _error: Exception) -> JSONResponse:
        return unexpected_response()
