"""The API key: who does not show it is refused, before a byte of the body is read."""

import hmac
from http import HTTPStatus

from pydantic import SecretStr
from starlette.responses import JSONResponse
from starlette.types import Scope

HEALTH_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})  # of the orchestrator, which holds no keys
METRICS_PATH = "/metrics"
_HOW = "send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`"


def open_paths(*, metrics_without_key: bool) -> frozenset[str]:
    """The paths of the API that need no key; those of the page at ``/`` come on top (``home.py``)."""
    return HEALTH_PATHS | {METRICS_PATH} if metrics_without_key else HEALTH_PATHS


class ApiKey:
    """The key of this server; it is in no representation and no answer."""

    def __init__(self, key: SecretStr, without_key: frozenset[str]) -> None:
        """without_key: paths that stay open."""
        self._key = key.get_secret_value().encode()
        self._without_key = without_key

    def refusal(self, scope: Scope) -> JSONResponse | None:
        """What a request without the key is answered with, 401; None for one that may pass.

        One right credential is enough, whatever stands beside it: a proxy may have added an ``Authorization`` of its
        own. Each is compared in a time that does not tell how much of it is right.
        """
        if scope["path"] in self._without_key:
            return None
        has_shown_one = False
        for name, value in scope["headers"]:
            if name == b"x-api-key":
                credential = value
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                credential = value[7:].strip(b" ")
            else:
                continue
            if hmac.compare_digest(credential, self._key):
                return None
            has_shown_one = True
        error = "the API key is wrong" if has_shown_one else f"this server asks for an API key: {_HOW}"
        return JSONResponse({"error": error}, HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": "Bearer"})
