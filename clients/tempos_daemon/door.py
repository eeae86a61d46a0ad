"""In front of every request of an application: the token, no web pages, no endless bodies.

With a token nothing is told without it. What a web page sends is refused, for it is not the operator who
wrote it; where there is no token that a page could lack, also what asks by a name that is not this machine's,
as a page does whose own name was made to lead here (DNS rebinding). What is turned away is counted under its
reason and told in the log sparingly.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from tempos._api import DAEMON, PROCESS
from tempos._remarks import Sparingly
from tempos.errors import one_line
from tempos_daemon.problems import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: The longest body of a request, bytes, where an application does not say otherwise.
MAX_BODY = 1 << 16
#: A Host header: an IPv6 address in brackets, or a name or IPv4 address; and a port.
_HOST = re.compile(r"(?:\[(?P<literal>[^\[\]]+)\]|(?P<name>[^:@\[\]]+))(?::[0-9]*)?")


def is_ours(host: bytes) -> bool:
    """Whether a Host header (RFC 9110, section 7.2) names this machine: by address, or by its name.

    An address cannot be rebound. Without the header it is no browser that asks.
    """
    told = host.decode("latin-1").strip().lower()
    if not told:
        return True
    if (split := _HOST.fullmatch(told)) is None:
        return False
    if (literal := split["literal"]) is not None:
        return _is_address(literal)
    name = split["name"].rstrip(".")
    if name == "localhost" or name.endswith(".localhost") or _is_address(name):
        return True
    ours = socket.gethostname().lower()
    return bool(name) and name in (ours, ours.partition(".")[0])


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class Door:
    """An application of a ``daemon``, which every answer names, as it does its process, behind a door.

    ``set_by``: what sets its token.

    ``longest`` gives how many bytes a body may have, by method and path; ``refused`` counts what is turned
    away, by reason.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str,
        refused: Counter[str],
        *,
        daemon: str,
        set_by: str,
        logger: logging.Logger,
        longest: Callable[[str, str], int] = lambda method, path: MAX_BODY,
    ) -> None:
        self._app = app
        self._token = token.encode()
        self._refused = refused
        self._daemon = daemon
        self._named = [
            (DAEMON.lower().encode(), daemon.lower().encode()),
            (PROCESS.lower().encode(), str(os.getpid()).encode()),
        ]
        self._set_by = set_by
        self._longest = longest
        self._log = Sparingly(logger, time.monotonic)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *self._named]}
            await send(message)

        most = self._longest(scope["method"], scope["path"])
        refusal = self._refusal({name.lower(): value for name, value in scope["headers"]}, most)
        if refusal is None:
            await self._app(scope, receive, named)
            return
        reason, answer = refusal
        self._refused[reason] += 1
        source = scope["client"][0] if scope.get("client") else "nobody"
        self._log.warn(reason, f"{self._daemon} API request from {source} refused: {reason}")
        await answer(scope, receive, named)

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
        if not self._token and not is_ours(headers.get(b"host", b"")):
            name = one_line(headers[b"host"].decode("latin-1"))[:80]
            return "other host", problem(
                421, f"{name} is no name of this machine: ask by its address, or have a token set"
            )
        # A page elsewhere that has a browser ask sends no Origin, but Fetch Metadata; links may lead here.
        elsewhere = headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin")
        if b"origin" in headers or (elsewhere and headers.get(b"sec-fetch-mode") != b"navigate"):
            return "web page", problem(
                403, "requests of web pages are refused: use `tempos ctl`, or leave Origin away"
            )
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers or not length.isdigit() or int(length[:20]) > most:
            return "body", problem(413, f"a body has a Content-Length of at most {most} bytes")
        return None
