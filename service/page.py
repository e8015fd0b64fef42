"""HTML pages, with the headers that keep a browser from running or loading anything else with them."""

import base64
import hashlib
import re

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, Response

STATIC = "static-offline-docs"  # fastapi_offline's; relative, so that a proxy may serve us below a path of its own
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def page_headers(**sources: str) -> dict[str, str]:
    """Those that let a page load its own files alone, and nobody frame it. sources: others, as ``script_src=...``."""
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        **{name.replace("_", "-"): allowed for name, allowed in sources.items()},
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {allowed}" for name, allowed in policy.items()),
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
    }


def html_page(html: bytes) -> Response:
    """A page of ours. Its inline scripts run, each by its hash; another, injected into it, would not."""
    hashes = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _INLINE_SCRIPT.findall(html)]
    headers = page_headers(
        script_src=" ".join(["'self'", *(f"'sha256-{each}'" for each in hashes)]),
        style_src="'self' 'unsafe-inline'",  # Swagger UI writes style attributes
        img_src="'self' data:",  # its icons
    )
    return HTMLResponse(html, headers=headers)


def add_docs(app: FastAPI) -> None:
    """``/docs``: Swagger UI over ``/openapi.json``, as it is without a network."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=f"{app.title}: API",
        swagger_js_url=f"{STATIC}/swagger-ui-bundle.js",
        swagger_css_url=f"{STATIC}/swagger-ui.css",
        swagger_favicon_url=f"{STATIC}/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},  # or the document's address is sent to swagger.io
    )
    response = html_page(bytes(page.body))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return response
