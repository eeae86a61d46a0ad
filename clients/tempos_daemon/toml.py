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
        tables: dict[str, Any] = toml.loads(text)
    except toml.TOMLDecodeError as error:
        raise ConfigError([f"{name}: {_syntax(str(error), text)}"]) from None
    except (ValueError, RecursionError) as error:
        # An integer with more digits than Python converts, or lists inside lists without end.
        raise ConfigError([f"{name}: cannot be read as TOML: {error}"]) from None
    return tables


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
