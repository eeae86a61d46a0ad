"""A daemon's live page: a few files, its own and those that all of them share; the page is at ``/``.

They hold no secret, so they are given without the token, which the page asks for. The policy that goes with
them lets the browser load, run and ask nothing but what is ours.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Protocol

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: What every page uses: how it looks, and how it follows its daemon.
_SHARED = ("page.css", "icon.svg", "live.js", "show.js")
_MEDIA = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
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


class _File(Protocol):
    """As :mod:`importlib.resources` has it, whose name for that moved with Python 3.11."""

    @property
    def name(self) -> str: ...

    def read_bytes(self) -> bytes: ...


class Page:
    """The page, and for all else the application behind it.

    ``own``: the daemon's files beside ``page.html``, all of them in the folder ``assets`` of ``package``.
    """

    def __init__(self, app: ASGIApp, package: str, own: tuple[str, ...]) -> None:
        self._app = app
        folder, shared = (resources.files(each) / "assets" for each in (package, "tempos_daemon"))
        self._answers = {"/": _answer(folder / "page.html")}
        self._answers |= {f"/{name}": _answer(folder / name) for name in own}
        self._answers |= {f"/{name}": _answer(shared / name) for name in _SHARED}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] in self._answers:
            whole, unchanged = self._answers[scope["path"]]
            asked = dict(scope["headers"]).get(b"if-none-match", b"")
            same = asked.decode("latin-1") == whole.headers["ETag"]
            await (unchanged if same else whole)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _answer(file: _File) -> tuple[Response, Response]:
    content = file.read_bytes()
    headers = {**_HEADERS, "ETag": f'"{hashlib.sha256(content).hexdigest()[:20]}"'}
    media = _MEDIA[file.name.rpartition(".")[2]]
    return Response(content, media_type=media, headers=headers), Response(status_code=304, headers=headers)
