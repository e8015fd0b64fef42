"""The OpenAPI document: FastAPI's own, less the status it never sends here, plus the inference route by hand."""

from collections.abc import Callable, Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from service.protocol import HEADER_LENGTH

# fmt: off
DIGIT = [  # a three of the held-out digits: 8 x 8 pixels, each / 16
    0, 0.125, 0.5625, 0.9375, 1, 0.9375, 0.125, 0,
    0, 0.6875, 0.6875, 0.3125, 0.5625, 1, 0.1875, 0,
    0, 0, 0, 0, 0.5625, 0.75, 0, 0,
    0, 0, 0, 0, 0.375, 0.9375, 0.0625, 0,
    0, 0, 0, 0, 0, 0.875, 0.5625, 0,
    0, 0, 0, 0, 0, 0.75, 0.75, 0,
    0, 0, 0.3125, 0.1875, 0.375, 0.9375, 0.4375, 0,
    0, 0, 0.75, 1, 0.9375, 0.5625, 0.0625, 0,
]
# fmt: on

_ERRORS = {
    400: "The request is not what the protocol or the model's metadata asks for.",
    404: "There is no such model, or no such version of it.",
    408: "The body did not come within the server's BODY_TIMEOUT_SECONDS.",
    413: "The body, the number of rows or the answer is larger than is served.",
    415: "The Content-Encoding is none of identity, gzip and deflate.",
    429: "As many requests, or bytes of them, are waiting as may wait, or too many bytes of bodies are being read; "
    "Retry-After says when to try again.",
    431: "The request's head is larger than the server's MAX_HEADER_BYTES.",
    500: "The model failed on this request.",
    503: "The model is being loaded, or was refused, or too many connections are open; the error says why.",
    504: "Not answered within `parameters.timeout` or the server's REQUEST_TIMEOUT_MS.",
}


def operation_id(route: APIRoute) -> str:
    """What generated clients call it: the function's name, where FastAPI would add path and method."""
    return f"{route.name}_version" if "{version}" in route.path else route.name


def use_own_openapi(app: FastAPI, infer_paths: tuple[str, ...], *, without_key: Collection[str] | None = None) -> None:
    """Make ``app.openapi`` build the document once, when it is first asked for.

    without_key: paths that stay open where the server asks for an API key; None: it asks for none.
    """
    app.openapi = _builder(app, infer_paths, without_key)  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _builder(
    app: FastAPI, infer_paths: tuple[str, ...], without_key: Collection[str] | None
) -> Callable[[], dict[str, Any]]:
    def build() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes, tags=_TAGS
            )
            for path in infer_paths:
                document["paths"][path] = {"post": _infer_operation(path)}
            document["components"]["schemas"] |= _SCHEMAS
            if without_key is not None:
                _ask_for_key(document, without_key)
            _for_generators(document)
            app.openapi_schema = _with_own_errors(document)
        return app.openapi_schema

    return build


def _with_own_errors(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI lists 422 on every route with a parameter; here bad input is 400 everywhere.

    And every request may be refused before it reaches its route.
    """
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"].setdefault("431", _error(_ERRORS[431]))
            operation["responses"].setdefault("503", _error("Too many connections are open."))
            if "requestBody" in operation:
                operation["responses"].setdefault("408", _error(_ERRORS[408]))
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)
    return document


def _for_generators(document: dict[str, Any]) -> None:
    """What generated clients need: a parameter of a path has a value, and a body with a title is a type by that name.

    FastAPI calls a parameter nullable that one function takes by one of its paths and does without by the other.
    """
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["schema"] = {"type": "string"}
            for part in (operation.get("requestBody", {}), operation["responses"]["200"]):
                media = part.get("content", {}).get("application/json", {})
                title = media.get("schema", {}).get("title", "")
                if title.isidentifier():
                    document["components"]["schemas"][title] = media["schema"]
                    media["schema"] = {"$ref": f"#/components/schemas/{title}"}


def _ask_for_key(document: dict[str, Any], without_key: Collection[str]) -> None:
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "x_api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    document["security"] = [{"bearer": []}, {"x_api_key": []}]  # either
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path in without_key:
                operation["security"] = []
            else:
                operation["responses"]["401"] = _error("The API key is missing or wrong.")


def _error(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ErrorBody"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _infer_operation(path: str) -> dict[str, Any]:
    versioned = "{version}" in path
    parameters: list[dict[str, Any]] = [
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "example": "ln-mlp-digits"}
    ]
    if versioned:
        parameters.append(
            {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}, "example": "1"}
        )
    parameters.append(
        {
            "name": HEADER_LENGTH,
            "in": "header",
            "required": False,
            "schema": {"type": "integer", "minimum": 0},
            "description": "Bytes of JSON in front of binary tensors; 0 when the body is the one input's bytes.",
        }
    )
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        "tags": ["inference"],
        "summary": "Infer",
        "description": "Run a model. Tensors go as JSON, flat or nested in row-major order, or as binary behind the "
        "JSON (the protocol's binary tensor extension). An answer is bitwise the same alone and in any batch.",
        "operationId": "infer_version" if versioned else "infer",
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/InferenceRequest"},
                    "example": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]},
                },
                "application/octet-stream": binary,
            },
        },
        "responses": {
            "200": {
                "description": "The outputs asked for, or all of them.",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/InferenceResponse"}},
                    "application/octet-stream": binary,
                },
            },
            **{str(status): _error(description) for status, description in _ERRORS.items()},
        },
    }


_TAGS = [
    {"name": "inference", "description": "Run a model."},
    {"name": "operations", "description": "The normalisation operations themselves, with your own weights."},
    {"name": "models", "description": "What is served, and how."},
    {"name": "certificate", "description": "What was measured of each model."},
    {"name": "statistics", "description": "What the server has done."},
    {"name": "server", "description": "Identity and health."},
]

_PARAMETERS = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]},
}
_TENSOR_PROPERTIES = {
    "name": {"type": "string"},
    "datatype": {"type": "string", "examples": ["FP32", "INT64"]},
    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
    "data": {"type": "array", "items": {}, "description": "Flat or nested, row-major."},
    "parameters": _PARAMETERS,
}
_TENSOR = {"type": "object", "required": ["name", "datatype", "shape"], "properties": _TENSOR_PROPERTIES}

_SCHEMAS: dict[str, Any] = {
    "RequestInput": _TENSOR,
    "ResponseOutput": _TENSOR,
    "RequestedOutput": {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
    },
    "InferenceRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string", "description": "Echoed in the answer."},
            "parameters": {
                **_PARAMETERS,
                "properties": {
                    "binary_data_output": {"type": "boolean", "description": "Send outputs as binary."},
                    "nonfinite": {"const": "null", "description": "Write NaN and infinity as null in JSON outputs."},
                    "timeout": {
                        "type": "integer",
                        "minimum": 0,
                        "description": "Microseconds in which the answer is of use; 0: those of the server's setting.",
                    },
                    "priority": {
                        "type": "integer",
                        "minimum": 0,
                        "description": "1 for the highest, 0 or any other for the usual.",
                    },
                },
            },
            "inputs": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/RequestInput"}},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/RequestedOutput"}},
        },
    },
    "InferenceResponse": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/ResponseOutput"}},
        },
    },
}
