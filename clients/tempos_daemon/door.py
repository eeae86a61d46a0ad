"""In front of every request of an application: the token, no web pages, no endless bodies.

With a token nothing is told without it. What a web page sends is refused, for it is not the operator who
wrote it. What is turned away is counted under its reason and told in the log sparingly.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse

from tempos._remarks import Sparingly
from tempos_daemon.problems import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: The longest body of a request, bytes, where an application does not say otherwise.
MAX_BODY = 1 << 16


class Door:
    """An application behind a door. ``what`` it is in the log; ``set_by``: what sets its token.

    ``longest`` gives how many bytes a body may have, by method and path; ``refused`` counts what is turned
    away, by reason.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str,
        refused: Counter[str],
        *,
        what: str,
        set_by: str,
        logger: logging.Logger,
        longest: Callable[[str, str], int] = lambda method, path: MAX_BODY,
    ) -> None:
        self._app = app
        self._token = token.encode()
        self._refused = refused
        self._what = what
        self._set_by = set_by
        self._longest = longest
        self._log = Sparingly(logger, time.monotonic)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._longest(scope["method"], scope["path"])
        refusal = self._refusal({name.lower(): value for name, value in scope["headers"]}, most)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        reason, answer = refusal
        self._refused[reason] += 1
        source = scope["client"][0] if scope.get("client") else "nobody"
        self._log.warn(reason, f"{self._what} request from {source} refused: {reason}")
        await answer(scope, receive, send)

    def _refusal(self, headers: Mapping[bytes, bytes], most: int) -> tuple[str, JSONResponse] | None:
        """Why a request is turned away, as counted, and its answer."""
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else b""
        if self._token and not hmac.compare_digest(given, self._token):
            reason, said = (
                ("wrong token", "this token is not the one") if given else ("no token", "a token is needed")
            )
            return reason, problem(
                401,
                f"{said}: send 'Authorization: Bearer ...' with {self._set_by} of the configuration",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if b"origin" in headers:
            return "web page", problem(
                403, "requests of web pages are refused: use `tempos ctl`, or leave Origin away"
            )
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers or not length.isdigit() or int(length[:20]) > most:
            return "body", problem(413, f"a body has a Content-Length of at most {most} bytes")
        return None
