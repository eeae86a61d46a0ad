"""Paths of webhooks: which endpoint has a request, and which topic a path's values make.

    "/orders"                that path
    "/sensors/{id}/state"    one segment in the place of each {...}; it is a value
    "/orders/*"              all below it

An exact path comes before one with values, and that before one with a star; of two of a kind the one that is
exact for longer, and then the longer one. The values, percent-decoded, take the places of the
``+`` of the endpoint's topic, from left to right: there are as many of these as of those.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from tempos import LocalError, names
from tempos_daemon.schema import Kind, NotAllowed

_T = TypeVar("_T")
_VALUE = re.compile(r"\{[a-z][a-z0-9_]{0,31}\}")


def _path(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"/[!-)+->@-~]*\*?", value):
        raise NotAllowed
    if "*" in value and not value.endswith("/*"):
        raise NotAllowed("where * is no last part")
    found = [each for each in value.split("/") if "{" in each or "}" in each]
    if not all(map(_VALUE.fullmatch, found)):
        raise NotAllowed("where {...} is no whole part, or no name of lower-case letters, digits and _")
    if len(set(found)) != len(found):
        raise NotAllowed("which has one {...} twice")
    return value


PATH = Kind('a path such as "/orders", "/sensors/{id}" with a value, or "/orders/*" for all below it', _path)


def values_in(path: str) -> int:
    """How many values a path has."""
    return len(_VALUE.findall(path))


def shape(path: str) -> str:
    """The same for paths that take the same requests."""
    return _VALUE.sub("{}", path)


def topic_of(wanted: str, values: Sequence[str]) -> str:
    """The topic's name with values for its ``+``; raises :class:`LocalError` for one that is no level."""
    rest = iter(values)
    levels = [next(rest) if level == "+" else level for level in wanted.split("/")]
    if any("/" in value or not value for value in values):
        raise LocalError("a value is empty or has a slash in it; allowed: one level of a topic's name")
    return names.check_name("/".join(levels))


class Paths(Generic[_T]):
    """What stands behind paths, by method."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, _T]] = {}
        # With values and stars, the ones that come first in front.
        self._others: list[tuple[re.Pattern[str], dict[str, _T]]] = []

    def add(self, path: str, methods: Sequence[str], what: _T) -> None:
        """Have requests of this path go there."""
        for method in methods:
            self._exact.setdefault(path, {})[method] = what
        self._sort()

    def remove(self, what: _T) -> None:
        """Have none go there."""
        for methods in self._exact.values():
            for method in [method for method, who in methods.items() if who is what]:
                del methods[method]
        self._exact = {path: methods for path, methods in self._exact.items() if methods}
        self._sort()

    def _sort(self) -> None:
        others = [path for path in self._exact if "{" in path or path.endswith("/*")]
        others.sort(key=lambda path: (path.endswith("/*"), -len(re.split(r"[{*]", path)[0]), -len(path)))
        self._others = [(re.compile("".join(_pattern(path))), self._exact[path]) for path in others]

    def find(self, path: str, raw: str) -> tuple[dict[str, _T], list[str]]:
        """What has this path, by method, and the values in it; ``raw``: as it came, percent-encoded."""
        if "{" not in path and not path.endswith("/*") and (found := self._exact.get(path)) is not None:
            return found, []
        for pattern, methods in self._others:
            if (match := pattern.fullmatch(raw if pattern.groups else path)) is not None:
                return methods, [urllib.parse.unquote(value) for value in match.groups()]
        return {}, []


def _pattern(path: str) -> Iterator[str]:
    at = 0
    for each in _VALUE.finditer(path):
        yield re.escape(path[at : each.start()])
        yield "([^/]+)"
        at = each.end()
    rest = path[at:]
    yield f"{re.escape(rest[:-1])}.*" if rest.endswith("/*") else re.escape(rest)
