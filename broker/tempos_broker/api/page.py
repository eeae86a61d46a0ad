"""The live page: a few files of this package, served at ``/``; what they show they ask the API for.

They hold no secret, so they are given without the token, which the page asks for. The policy that goes with
them lets the browser load, run and ask nothing but what is ours.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/state.js": ("state.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Page:
    """The page, and for all else the application behind it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        folder = resources.files("tempos_broker.api") / "assets"
        self._answers = {path: _answer((folder / name).read_bytes(), media)
                         for path, (name, media) in _FILES.items()}  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] in self._answers:
            whole, unchanged = self._answers[scope["path"]]
            asked = dict(scope["headers"]).get(b"if-none-match", b"")
            same = asked.decode("latin-1") == whole.headers["ETag"]
            await (unchanged if same else whole)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _answer(content: bytes, media: str) -> tuple[Response, Response]:
    headers = {**_HEADERS, "ETag": f'"{hashlib.sha256(content).hexdigest()[:20]}"'}
    return Response(content, media_type=media, headers=headers), Response(status_code=304, headers=headers)
