"""The page at ``/``, to try what is served: files of ``web/``, read once, which run in the browser and ask the API.

They hold no secret, so they need no key; what the page asks for does.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.page import page_headers

FOLDER = Path(__file__).parent / "web"
PAGE = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    **page_headers(),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # ask each time, 304 mostly: the page and its modules are always of one version
}


@dataclass(frozen=True)
class WebFile:
    """A file of the page; where it is served, relative to the page."""

    path: str
    content: bytes
    media_type: str

    @property
    def headers(self) -> dict[str, str]:
        """Those of every answer with it, 304 included."""
        return {**HEADERS, "ETag": f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'}


def _read(file: Path) -> WebFile:
    path = "/" if file.name == PAGE else f"/{FOLDER.name}/{file.name}"
    return WebFile(path, file.read_bytes(), MEDIA_TYPES[file.suffix])


def web_files() -> list[WebFile]:
    """The page and all it loads."""
    return [_read(file) for file in sorted(FOLDER.iterdir()) if file.suffix in MEDIA_TYPES]


def home_routes(files: list[WebFile]) -> list[Route]:
    """A route for each, by its whole path: nothing that is asked for becomes a path of this machine."""
    return [Route(file.path, _answer(file), methods=["GET"], include_in_schema=False) for file in files]


def _answer(file: WebFile) -> Callable[[Request], Awaitable[Response]]:
    headers = file.headers

    async def answer(request: Request) -> Response:
        if _has(request.headers.get("if-none-match", ""), headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)

    return answer


def _has(if_none_match: str, etag: str) -> bool:
    """Whether a browser has it already. A proxy that compresses may have made the tag a weak one."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags
