"""Structs of programs, read as the object file itself describes them (BTF): no layout is written down twice.

A :class:`Layout` turns the bytes of a struct into a named tuple. Integers become int, arrays of them
tuples, arrays of `char` text, arrays of other bytes stay bytes; a struct inside gives its members,
`outer_inner`. And what the kernel says of its own types: which tracepoints it has, and what the numbers of
an enumeration are called.
"""

from __future__ import annotations

import collections
import enum
import functools
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tempos_bpf.errors import BpfError
from tempos_bpf.library import ffi, lib, text

#: Members of a struct, at most, its structs inside taken apart.
_MEMBERS = 128
#: Texts that are kept decoded.
_TEXTS = 4096


class Kind(enum.IntEnum):
    """What a member of a struct is."""

    UNSIGNED = 0
    SIGNED = 1
    TEXT = 2
    BYTES = 3


@dataclass(frozen=True, slots=True)
class Member:
    """``count`` values of ``size`` bytes from ``offset`` on; count 0: one value that is no array."""

    name: str
    offset: int
    size: int
    count: int
    kind: Kind

    @property
    def end(self) -> int:
        return self.offset + self.size * max(self.count, 1)


class _Texts(dict[bytes, str]):
    """C strings, decoded once: the same few names come again and again."""

    def __missing__(self, raw: bytes) -> str:
        if len(self) >= _TEXTS:
            self.clear()
        self[raw] = decoded = raw.partition(b"\0")[0].decode(errors="backslashreplace")
        return decoded


class Layout:
    """How a struct of so many bytes lies in memory. A plain integer has one member, ``value``."""

    def __init__(self, name: str, size: int, members: tuple[Member, ...]) -> None:
        self.name = name
        self.size = size
        self.members = members
        #: A named tuple of values in a tuple.
        self._made = functools.partial(tuple.__new__, _record_of(name, [each.name for each in members]))
        codes, at = ["="], 0
        for each in members:
            codes.append(f"{each.offset - at}x{_code(each)}")
            at = each.end
        self._struct = struct.Struct("".join([*codes, f"{size - at}x"]))
        texts = _Texts()
        self._turn: list[tuple[int, Callable[[bytes], Any]]] = []
        for index, each in enumerate(members):
            if each.kind is Kind.TEXT:
                self._turn.append((index, texts.__getitem__))
            elif each.count and each.kind is not Kind.BYTES:
                self._turn.append((index, _numbers(_number(each))))

    def read(self, raw: bytes | memoryview) -> Any:
        """The struct whose bytes these are, as a named tuple."""
        return next(self.read_all(raw))

    def read_all(self, raw: bytes | memoryview) -> Iterator[Any]:
        """The structs that lie one behind the other."""
        return map(self._made, zip(*self._columns(raw), strict=True)) if raw else iter(())

    def read_columns(self, raw: bytes | memoryview) -> Mapping[str, Iterable[Any]]:
        """The same by member: what each of the structs has there, to be gone through once.

        For those who show many and need no struct of each: nobody makes one.
        """
        return dict(zip((each.name for each in self.members), self._columns(raw), strict=True))

    def _columns(self, raw: bytes | memoryview) -> list[Iterable[Any]]:
        """Turned member by member, not struct by struct: no step of Python for each."""
        columns: list[Iterable[Any]] = list(zip(*self._struct.iter_unpack(raw), strict=True))
        for index, turn in self._turn:
            columns[index] = map(turn, columns[index])
        return columns


def _record_of(name: str, members: list[str]) -> Any:
    return collections.namedtuple(name, members, rename=True)  # noqa: PYI024 - of what an object says


def _numbers(code: str) -> Callable[[bytes], tuple[int, ...]]:
    return lambda raw: tuple(memoryview(raw).cast(code))  # type: ignore[call-overload]


def _number(member: Member) -> str:
    code = {1: "B", 2: "H", 4: "I", 8: "Q"}[member.size]
    return code.lower() if member.kind is Kind.SIGNED else code


def _code(member: Member) -> str:
    return f"{member.size * member.count}s" if member.count else _number(member)


def layout_of(handle: Any, number: int, name: str) -> Layout:
    """The layout of a type of an object, by its number there; raises :class:`BpfError`."""
    members = ffi.new("struct tempos_member[]", _MEMBERS)
    size = ffi.new("__u32 *")
    found = lib.tempos_type_members(handle, number, members, _MEMBERS, size)
    if found < 0:
        raise BpfError(f"cannot tell how {name} lies in memory", -found)
    return Layout(
        name,
        int(size[0]),
        tuple(
            Member(
                text(each.name) or "value", int(each.offset), int(each.size), int(each.count), Kind(each.kind)
            )
            for each in members[0:found]
        ),
    )


class KernelTypes:
    """What this kernel says of itself. Raises :class:`BpfError` where it says nothing."""

    def __init__(self) -> None:
        code = ffi.new("int *")
        handle = lib.tempos_kernel_types(code)
        if handle == ffi.NULL:
            raise BpfError(
                "this kernel does not describe its types (BTF, /sys/kernel/btf/vmlinux)",
                -code[0],
                reason="there is no such file, or it cannot be read",
            )
        self._handle = ffi.gc(handle, lib.tempos_kernel_types_free)

    def has_tracepoint(self, name: str) -> bool:
        return bool(lib.tempos_kernel_has_tracepoint(self._handle, name.encode()))

    def enumerators(self, name: str) -> dict[int, str]:
        """Of an enumeration, by number; empty where the kernel has none of that name."""
        found: dict[int, str] = {}
        value = ffi.new("long long *")
        for index in range(1 << 16):
            word = lib.tempos_kernel_enumerator(self._handle, name.encode(), index, value)
            if word == ffi.NULL:
                break
            found.setdefault(int(value[0]), text(word))
        return found


@lru_cache(1)
def kernel_types() -> KernelTypes:
    """Read once: some megabytes."""
    return KernelTypes()
