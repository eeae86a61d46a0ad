"""What an ELF file says of itself: whether it is for this machine, and whole. Raises :class:`Unfit` in words.

The loader finds out most of what can be wrong. That all of a file is there it takes for granted, so that is
looked at here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from tempos_invoker.worker.unfit import Unfit

MAGIC = b"\x7fELF"
SHARED = 3

_LOADED = 1
_CLASS, _DATA = 4, 5
_BITS = {1: "32 bits", 2: "64 bits"}
_ORDER = {1: "little-endian", 2: "big-endian"}
_MACHINES = {3: "x86", 8: "MIPS", 20: "PowerPC", 21: "PowerPC 64", 22: "S/390", 40: "ARM", 62: "x86-64"}
_MACHINES |= {183: "ARM 64", 243: "RISC-V", 258: "LoongArch"}
#: By the class: where the program headers are told of, and of each its type, offset and length in the file.
_TABLE = {1: ("I", 28, "HH", 42), 2: ("Q", 32, "HH", 54)}
_SEGMENT = {1: ("IIIII", (0, 1, 4)), 2: ("IIQQQQ", (0, 2, 5))}
_HEAD = 64


@dataclass(frozen=True, slots=True)
class Elf:
    """``kind``: what it is (:data:`SHARED`); ``machine``: in words. ``length``: bytes that it must have."""

    kind: int
    machine: str
    length: int


def read(path: Path) -> Elf | None:
    """None: it is none. Raises :class:`OSError`."""
    with path.open("rb") as file:
        content = file.read(_HEAD)
        if not content.startswith(MAGIC) or len(content) < _HEAD or content[_CLASS] not in _BITS:
            return None
        order = "<" if content[_DATA] == 1 else ">"
        kind, number = struct.unpack_from(order + "HH", content, 16)
        bits, endian = _BITS[content[_CLASS]], _ORDER.get(content[_DATA], "?")
        machine = f"{_MACHINES.get(number, f'machine {number}')}, {bits}, {endian}"
        where, at, counts, counts_at = _TABLE[content[_CLASS]]
        (table,) = struct.unpack_from(order + where, content, at)
        size, count = struct.unpack_from(order + counts, content, counts_at)
        layout, (type_at, offset_at, length_at) = _SEGMENT[content[_CLASS]]
        length = table + size * count
        file.seek(table)
        headers = file.read(size * count)
    if size >= struct.calcsize(order + layout):
        for begin in range(0, len(headers) - size + 1, size):
            fields = struct.unpack_from(order + layout, headers, begin)
            if fields[type_at] == _LOADED:
                length = max(length, fields[offset_at] + fields[length_at])
    return Elf(kind, machine, length)


def must_fit(path: Path, elf: Elf) -> None:
    """Raise :class:`Unfit` for a file that is for another machine than this process, or not all there."""
    own = read(Path("/proc/self/exe"))
    assert own is not None, "what runs is an ELF file"
    if elf.machine != own.machine:
        raise Unfit(f"{path.name} is made for {elf.machine}, and this machine is {own.machine}")
    there = path.stat().st_size
    if there < elf.length:
        raise Unfit(f"{path.name} is cut off: it has {there} bytes of {elf.length}")
