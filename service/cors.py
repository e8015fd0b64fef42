"""Cross-origin requests: which pages of other sites may ask this server, where any may."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.protocol import HEADER_LENGTH
from service.whole_response import WRITES_WHOLE

METHODS = ("GET", "POST")
ASKED_WITH = ("Authorization", "Content-Encoding", "Content-Type", HEADER_LENGTH, "X-API-Key", "X-Request-ID")
SHOWN = (HEADER_LENGTH, "Retry-After", "WWW-Authenticate", "X-Request-ID")


def allowed_origins(origins: str | None) -> list[str]:
    """The setting's, one by one."""
    return [] if origins is None else [origin.strip() for origin in origins.split(",")]


class Cors(CORSMiddleware):
    """Starlette's, with errors as ours are. A browser sends no key with its preflight, so it stands before the key."""

    def __init__(self, app: ASGIApp, origins: str) -> None:
        """origins: with commas between them, or ``*``."""
        # Cookies and the like are not allowed: there are none, and a key in a header is not one of them.
        super().__init__(
            app,
            allow_origins=allowed_origins(origins),
            allow_methods=METHODS,
            allow_headers=ASKED_WITH,
            expose_headers=SHOWN,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As Starlette's, which adds its headers in ``send``: an answer to another origin must go that way."""
        if scope["type"] == "http" and any(name == b"origin" for name, _ in scope["headers"]):
            scope.pop(WRITES_WHOLE, None)
        await super().__call__(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """200, or 400 with what is allowed."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        error = (
            f"{bytes(response.body).decode()}: the setting CORS_ORIGINS says which origins may ask, "
            f"by {' or '.join(METHODS)} and with the headers {', '.join(ASKED_WITH)}"
        )
        return JSONResponse({"error": error}, response.status_code, {"Vary": response.headers["vary"]})
