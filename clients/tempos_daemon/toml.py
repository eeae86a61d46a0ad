"""Reads a file of TOML: its text, and the document in it; all that can be wrong is one error type.

Rule: whatever a file holds, only :class:`tempos.ConfigError` comes out. Needs nothing beyond the standard
library (on Python 3.10: tomli).
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tempos import ConfigError, Unavailable
from tempos_daemon.files import MOST, read_start

_WHERE = re.compile(
    r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.S
)
#: Characters from which on a text is read by tables; lines, and texts, that are known at a time.
LARGE, RECURRING = 64 * 1024, 1024
#: Lines at the beginning of a table that are its own, as a rule: id and name.
OWN = 2
_HEADER = re.compile(r"^[ \t]*\[\[(?P<name>[A-Za-z0-9_-]+)\]\]", re.M)
#: Says that a line is the header of a table inside another.
_INNER = object()
#: A key and a whole number, or a text with nothing in it that means something else: most lines are such.
_PLAIN = re.compile(r'([A-Za-z0-9_-]+) *= *(?:(0|[1-9][0-9]{0,17})|"([^"\\\x00-\x1f\x7f]*)") *')
_OVER_LINES = ('"""', "'''")
_WIDE_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_text(path: str | os.PathLike[str], read: Callable[[Path], bytes] | None = None) -> str:
    """The text of a file; raises :class:`tempos.ConfigError` where there is none to be had."""
    name = os.fspath(path)
    try:
        content = (read or read_start)(Path(name))
    except OSError as error:
        raise ConfigError([f"{name}: cannot be read: {error.strerror or error}"]) from None
    except ValueError as error:
        # A path with a zero byte in it.
        raise ConfigError([f"{name!r}: cannot be read: {error}"]) from None
    if len(content) > MOST:
        raise ConfigError([f"{name}: larger than {MOST} bytes; a configuration is not"])
    encoding = _WIDE_ENCODINGS.get(content[:2])
    if encoding:
        raise ConfigError([f"{name}: is {encoding}; allowed: UTF-8"])
    try:
        # Some editors put a byte order mark before UTF-8, where it has no meaning.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise ConfigError([f"{name}: line {line}: byte 0x{byte:02x} is no UTF-8; allowed: UTF-8"]) from None


def document(text: str, name: str, *, shared: bool = False) -> dict[str, Any]:
    """The document in a text; ``name`` stands for the file in the fault. Raises as :func:`read_text` does.

    ``shared``: what several tables of a large text say may be the same lists and tables, of which none is to
    be changed.
    """
    toml = _toml_parser()
    try:
        tables: dict[str, Any] = _by_pieces(text, toml, shared=shared) or toml.loads(text)
    except toml.TOMLDecodeError as error:
        raise ConfigError([f"{name}: {_syntax(str(error), text)}"]) from None
    except (ValueError, RecursionError) as error:
        # An integer with more digits than Python converts, or lists inside lists without end.
        raise ConfigError([f"{name}: cannot be read as TOML: {error}"]) from None
    return tables


def _by_pieces(text: str, toml: ModuleType, *, shared: bool = False) -> dict[str, Any] | None:
    """The document in a large text that ends in one array of tables, read a table at a time.

    Read at once, thousands of tables take tens of megabytes that the process may never give back: a text of
    its own for each key. None: it is not of that kind, or there is something wrong with it.
    """
    if len(text) < LARGE or any(quotes in text for quotes in _OVER_LINES):
        return None
    text = text.replace("\r\n", "\n")
    # Where no text goes over lines, what looks like a header is one, or else nothing that TOML has.
    headers = list(_HEADER.finditer(text))
    if not headers:
        return None
    name, places = headers[0]["name"], [each.start() for each in headers]
    lines = _Lines(name, toml, shared=shared)
    tables: list[Any] = []
    try:
        document: dict[str, Any] = toml.loads(text[: places[0]])
        if name in document:
            return None
        for first, end in zip(places, [*places[1:], len(text)], strict=True):
            table = lines.table(text[first:end]) or lines.whole(text[first:end])
            if table is None:
                return None
            tables.append(table)
    except (ValueError, RecursionError):
        return None
    document[name] = tables
    return document


class _Lines:
    """Reads tables of one name; where each line says one thing by itself, lines that recur but once.

    Of thousands of tables nearly all lines are those of another one, and what they say is one object.
    ``shared``: also what all lines say that follow the :data:`OWN` first ones, tables inside included.
    """

    def __init__(self, name: str, toml: ModuleType, *, shared: bool) -> None:
        self._name, self._toml, self._shares = name, toml, shared
        self._inner = re.compile(rf"\[\[{name}\.([A-Za-z0-9_-]+)\]\]")
        #: What a line says: a key and its value, a key and ``_INNER``, or no key: nothing.
        self._known: dict[str, tuple[str, Any]] = {}
        self._texts: dict[str, str] = {}
        #: What the rest of a table says; None: it is not so simple, or wrong.
        self._rests: dict[str, dict[str, Any] | None] = {}

    def table(self, text: str) -> dict[str, Any] | None:
        """The table in a text that begins with its header; None: it is not so simple, or wrong."""
        header, *lines = text.split("\n", OWN + 1 if self._shares else -1)
        if header.strip(" \t") != f"[[{self._name}]]":
            return None
        if not self._shares or len(lines) <= OWN:
            return self._said(lines)
        *own, rest = lines
        table = self._said(own)
        if table is None:
            return None
        if any(type(value) is list for value in table.values()):
            return self._said(text.split("\n")[1:])
        if rest not in self._rests:
            if len(self._rests) >= RECURRING:
                self._rests.clear()
            self._rests[rest] = self._said(rest.split("\n"))
        more = self._rests[rest]
        if more is None or not table.keys().isdisjoint(more):
            return None
        table.update(more)
        return table

    def _said(self, lines: Sequence[str]) -> dict[str, Any] | None:
        """What lines say that follow the header of a table; None: as above."""
        table: dict[str, Any] = {}
        into = table
        inner: set[str] = set()
        for line in lines:
            said = self._known.get(line) or self._read(line)
            if said is None:
                return None
            key, value = said
            if value is _INNER:
                if key in table and key not in inner:
                    return None
                inner.add(key)
                into = {}
                table.setdefault(key, []).append(into)
            elif key:
                if key in into:
                    return None
                into[key] = value if type(value) is not list else [*value]
        return table

    def whole(self, text: str) -> dict[str, Any] | None:
        """The same of whatever TOML has; None: it is no single table of this name. Raises ValueError."""
        document = self._toml.loads(text)
        tables = document.get(self._name)
        if len(document) != 1 or not isinstance(tables, list) or len(tables) != 1:
            return None
        table: dict[str, Any] = self._shared(tables[0])
        return table

    def _read(self, line: str) -> tuple[str, Any] | None:
        said: tuple[str, Any] = ("", None)
        if (plain := _PLAIN.fullmatch(line)) is not None:
            number = plain[2]
            said = sys.intern(plain[1]), self._shared(plain[3]) if number is None else int(number)
        elif (inner := self._inner.fullmatch(line)) is not None:
            said = sys.intern(inner[1]), _INNER
        else:
            try:
                found = self._toml.loads(line)
            except (ValueError, RecursionError):
                return None
            for key, value in found.items():
                if isinstance(value, dict) or (isinstance(value, list) and _is_nested(value)):
                    return None
                said = sys.intern(key), self._shared(value)
        if len(self._known) >= RECURRING:
            # Those that recur are soon back, and all others were in their way.
            self._known.clear()
        self._known[line] = said
        return said

    def _shared(self, value: Any) -> Any:
        """The same value, with one object for each of the first texts that there are."""
        if isinstance(value, str):
            known = self._texts
            return known.setdefault(value, value) if len(known) < RECURRING else known.get(value, value)
        if isinstance(value, dict):
            return {sys.intern(key): self._shared(each) for key, each in value.items()}
        return [self._shared(each) for each in value] if isinstance(value, list) else value


def _is_nested(values: list[Any]) -> bool:
    return any(isinstance(each, (dict, list)) for each in values)


def _syntax(message: str, text: str) -> str:
    match = _WHERE.fullmatch(message)
    if not match:
        return f"TOML syntax: {message}"
    line = match["line"] or str(text.count("\n") + 1)
    column = f", column {match['column']}" if match["column"] else ", the end of the file"
    return f"line {line}{column}: TOML syntax: {match['what']}"


def _toml_parser() -> ModuleType:
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f"reading TOML needs {name}: pip install 'tempos[broker]'") from error
