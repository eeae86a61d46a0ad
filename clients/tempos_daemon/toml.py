"""Reads a file of TOML: its text, and the document in it; all that can be wrong is one error type.

Rule: whatever a file holds, only :class:`tempos.ConfigError` comes out. Needs nothing beyond the standard
library (on Python 3.10: tomli).
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tempos import ConfigError, Unavailable
from tempos_daemon.files import MOST, read_start

_WHERE = re.compile(
    r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.S
)
#: Characters from which on a text is read by pieces, tables of each, and texts that are one object.
LARGE, PIECE, SHARED = 64 * 1024, 64, 1024
_HEADER = re.compile(r"^[ \t]*\[\[(?P<name>[A-Za-z0-9_-]+)\]\]", re.M)
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


def document(text: str, name: str) -> dict[str, Any]:
    """The document in a text; ``name`` stands for the file in the fault. Raises as :func:`read_text` does."""
    toml = _toml_parser()
    try:
        tables: dict[str, Any] = _by_pieces(text, toml) or toml.loads(text)
    except toml.TOMLDecodeError as error:
        raise ConfigError([f"{name}: {_syntax(str(error), text)}"]) from None
    except (ValueError, RecursionError) as error:
        # An integer with more digits than Python converts, or lists inside lists without end.
        raise ConfigError([f"{name}: cannot be read as TOML: {error}"]) from None
    return tables


def _by_pieces(text: str, toml: ModuleType) -> dict[str, Any] | None:
    """The document in a large text that ends in one array of tables, read some tables at a time.

    Read at once, thousands of tables take tens of megabytes that the process may never give back: a text of
    its own for each key. None: it is not of that kind, or there is something wrong with it.
    """
    if len(text) < LARGE or any(quotes in text for quotes in _OVER_LINES):
        return None
    # Where no text goes over lines, what looks like a header is one, or else nothing that TOML has.
    headers = list(_HEADER.finditer(text))
    if not headers:
        return None
    name, places = headers[0]["name"], [each.start() for each in headers[::PIECE]]
    shared: dict[str, str] = {}
    tables: list[Any] = []
    try:
        document: dict[str, Any] = toml.loads(text[: places[0]])
        if name in document:
            return None
        for first, end in zip(places, [*places[1:], len(text)], strict=True):
            piece = toml.loads(text[first:end])
            if piece.keys() != {name}:
                return None
            tables += _shared(piece[name], shared)
    except (ValueError, RecursionError):
        return None
    document[name] = tables
    return document


def _shared(value: Any, known: dict[str, str]) -> Any:
    """The same value, with one object for each of the first texts that there are."""
    if isinstance(value, str):
        return known.setdefault(value, value) if len(known) < SHARED else known.get(value, value)
    if isinstance(value, dict):
        return {_shared(key, known): _shared(each, known) for key, each in value.items()}
    return [_shared(each, known) for each in value] if isinstance(value, list) else value


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
