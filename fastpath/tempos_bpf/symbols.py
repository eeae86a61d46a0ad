"""Where a function begins in an ELF file, by its name: what a uprobe is attached to.

Of the file only its own tables are read: `.symtab`, where it was not stripped, and `.dynsym`. 64 bits, and of
this machine's byte order; others have nothing that could be attached to here.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tempos import Unavailable

_ORDER = "<" if sys.byteorder == "little" else ">"
_HEADER = struct.Struct(_ORDER + "4s5B7xHHIQQQIHHHHHH")
_SECTION = struct.Struct(_ORDER + "IIQQQQIIQQ")
_SEGMENT = struct.Struct(_ORDER + "IIQQQQQQ")
_SYMBOL = struct.Struct(_ORDER + "IBBHQQ")
_SYMTAB, _DYNSYM, _LOAD = 2, 11, 1
_OBJECT, _FUNCTION = 1, 2
_CLASS_64 = 2


@dataclass(frozen=True, slots=True)
class _Section:
    kind: int
    offset: int
    size: int
    link: int


def symbol_offset(file: Path, symbol: str) -> int | None:
    """Bytes from the file's begin to the function's, or None: the file has no such function.

    Raises :class:`Unavailable` where the file cannot be read or is no ELF file of this machine's kind.
    """
    with _reading(file) as image:
        address = _addresses(image, (_FUNCTION,)).get(symbol)
        if address is None:
            return None
        return next(
            (
                address - start + offset
                for start, size, offset in _segments(image)
                if start <= address < start + size
            ),
            None,
        )


def symbol_addresses(file: Path) -> dict[str, int]:
    """Where functions and variables lie if the file is loaded at 0, by name. As :func:`symbol_offset`."""
    with _reading(file) as image:
        return _addresses(image, (_OBJECT, _FUNCTION))


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[memoryview]:
    try:
        yield memoryview(file.read_bytes())
    except (OSError, struct.error, IndexError, ValueError) as error:
        raise Unavailable(f"cannot read the symbols of {file}: {error}") from error


class _Header(NamedTuple):
    """Of the file, behind the word that says what it is."""

    width: int
    order: int
    version: int
    system: int
    system_version: int
    kind: int
    machine: int
    format: int
    entry: int
    segments: int
    sections: int
    flags: int
    size: int
    segment_size: int
    segment_count: int
    section_size: int
    section_count: int
    names: int


def _header(image: memoryview) -> _Header:
    magic, *rest = _HEADER.unpack_from(image)
    header = _Header(*rest)
    if magic != b"\x7fELF" or header.width != _CLASS_64:
        raise ValueError("it is no ELF file of 64 bits")
    return header


def _addresses(image: memoryview, kinds: tuple[int, ...]) -> dict[str, int]:
    """Of the symbols of these kinds that the file itself has."""
    found: dict[str, int] = {}
    sections = _sections(image)
    for table in sections:
        if table.kind not in (_SYMTAB, _DYNSYM):
            continue
        names = sections[table.link]
        texts = bytes(image[names.offset : names.offset + names.size])
        end = table.offset + table.size // _SYMBOL.size * _SYMBOL.size
        for name, info, _, section, value, _ in _SYMBOL.iter_unpack(image[table.offset : end]):
            if section and info & 15 in kinds:
                found[texts[name : texts.index(b"\0", name)].decode(errors="replace")] = value
    return found


def _sections(image: memoryview) -> list[_Section]:
    header = _header(image)
    found = []
    for index in range(header.section_count):
        at = header.sections + index * header.section_size
        _, kind, _, _, offset, length, link, *_ = _SECTION.unpack_from(image, at)
        found.append(_Section(kind, offset, length, link))
    return found


def _segments(image: memoryview) -> Iterator[tuple[int, int, int]]:
    """What is loaded: address, size, and where it lies in the file."""
    header = _header(image)
    for index in range(header.segment_count):
        at = header.segments + index * header.segment_size
        kind, _, offset, address, _, length, *_ = _SEGMENT.unpack_from(image, at)
        if kind == _LOAD:
            yield address, length, offset
