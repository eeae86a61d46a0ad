"""Names inside of addresses: a name may have a slash, which is written ``%2F`` there.

Servers hand on an address decoded, and then nobody can tell a slash of a name from one between two names. So
it is decoded here, but for slashes and the sign that marks them, and split; then each name is decoded whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from starlette.convertors import Convertor, register_url_convertor

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class OneName(Convertor[str]):
    """``{topic:name}``: one name, whatever is in it."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return value.replace("%2F", "/").replace("%25", "%")

    def to_string(self, value: str) -> str:
        return _marked(value)


class Names(OneName):
    """``{group:names}``: the same, where a slash may also stand as it is."""

    regex = ".+"


class WholeNames:
    """An application whose addresses are split before the names in them are decoded."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope.get("raw_path") if scope["type"] == "http" else None
        if raw:
            parts = raw.partition(b"?")[0].decode("latin-1").split("/")
            scope = {**scope, "path": "/".join(_marked(unquote(part)) for part in parts)}
        await self._app(scope, receive, send)


def in_address(name: str) -> str:
    """A name as it is written in an address."""
    return quote(name, safe="")


def _marked(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2F")


register_url_convertor("name", OneName())
register_url_convertor("names", Names())
