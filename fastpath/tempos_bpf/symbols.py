"""Where a function begins in an ELF file, by its name: what a uprobe is attached to.

Of the file only its own tables are read: `.symtab`, where it was not stripped, and `.dynsym`. 64 bits, and of
this machine's byte order; others have nothing that could be attached to here.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tempos import Unavailable

_ORDER = "<" if sys.byteorder == "little" else ">"
_HEADER = struct.Struct(_ORDER + "4s5B7xHHIQQQIHHHHHH")
_SECTION = struct.Struct(_ORDER + "IIQQQQIIQQ")
_SEGMENT = struct.Struct(_ORDER + "IIQQQQQQ")
_SYMBOL = struct.Struct(_ORDER + "IBBHQQ")
_SYMTAB, _DYNSYM, _LOAD, _FUNCTION = 2, 11, 1, 2
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
    try:
        image = memoryview(file.read_bytes())
        address = next((value for name, value in _functions(image) if name == symbol.encode()), None)
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
    except (OSError, struct.error, IndexError, ValueError) as error:
        raise Unavailable(f"cannot read the symbols of {file}: {error}") from error


def _header(image: memoryview) -> tuple[int, ...]:
    magic, width, *rest = _HEADER.unpack_from(image)
    if magic != b"\x7fELF" or width != _CLASS_64:
        raise ValueError("it is no ELF file of 64 bits")
    return tuple(rest)


def _functions(image: memoryview) -> Iterator[tuple[bytes, int]]:
    """Names and addresses; those of the dynamic symbols last."""
    sections = _sections(image)
    for table in sorted(
        (each for each in sections if each.kind in (_SYMTAB, _DYNSYM)), key=lambda each: each.kind
    ):
        names = sections[table.link]
        texts = bytes(image[names.offset : names.offset + names.size])
        for name, info, _, section, value, _ in _SYMBOL.iter_unpack(
            image[table.offset : table.offset + table.size // _SYMBOL.size * _SYMBOL.size]
        ):
            if section and info & 15 == _FUNCTION:
                yield texts[name : texts.index(b"\0", name)], value


def _sections(image: memoryview) -> list[_Section]:
    fields = _header(image)
    start, size, count = fields[8], fields[13], fields[14]
    found = []
    for index in range(count):
        _, kind, _, _, offset, length, link, *_ = _SECTION.unpack_from(image, start + index * size)
        found.append(_Section(kind, offset, length, link))
    return found


def _segments(image: memoryview) -> Iterator[tuple[int, int, int]]:
    """What is loaded: address, size, and where it lies in the file."""
    fields = _header(image)
    start, size, count = fields[7], fields[11], fields[12]
    for index in range(count):
        kind, _, offset, address, _, length, *_ = _SEGMENT.unpack_from(image, start + index * size)
        if kind == _LOAD:
            yield address, length, offset
