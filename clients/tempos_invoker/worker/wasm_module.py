"""What a WebAssembly module says of itself: imports, exports, memory, tables. Bytes in, values out.

Only as much of the format is read as is needed to say in words why a module cannot be used here; whether its
code is right is for the engine to find out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAGIC = b"\0asm"
VERSION = b"\x01\0\0\0"
#: A component (of a later proposal) says so where a module has its version.
COMPONENT = b"\x0d\0\x01\0"
PAGE = 65536

_TYPES, _IMPORTS, _FUNCTIONS, _TABLES, _MEMORIES, _EXPORTS = 1, 2, 3, 4, 5, 7
FUNCTION, TABLE, MEMORY, GLOBAL, TAG = range(5)
_NAMES = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128"}
_NAMES |= {0x70: "funcref", 0x6F: "externref"}
_FUNCTION_TYPE = 0x60
_HAS_MAXIMUM = 0x01


class NoModule(ValueError):
    """Bytes that are no module; says what they are."""


@dataclass(slots=True)
class Module:
    """``imports``: module, name, kind. ``exports``: kind, and what a function takes and gives, by its name.

    ``memory``: pages at first and at most (None: it does not say), or None. ``tables``: of each, the elements
    at first.
    """

    imports: list[tuple[str, str, int]] = field(default_factory=list)
    exports: dict[str, tuple[int, str]] = field(default_factory=dict)
    memory: tuple[int, int | None] | None = None
    memories: int = 0
    tables: list[int] = field(default_factory=list)


def read(content: bytes) -> Module:
    """Raises :class:`NoModule`."""
    if content[4:8] == COMPONENT and content[:4] == MAGIC:
        raise NoModule("it is a component; build it as a module (wasip1, or wasm32-wasi)")
    if not content.startswith(MAGIC + VERSION):
        is_text = content[:64].lstrip().startswith(b"(module")
        raise NoModule("it is text; translate it with wat2wasm" if is_text else "it does not begin as one")
    try:
        return _Reader(content).module()
    except (IndexError, UnicodeDecodeError, KeyError) as error:
        raise NoModule("it is cut off, or damaged") from error


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 8
        self._module = Module()
        self._types: list[str] = []
        #: The type of each function, those that are imported first.
        self._functions: list[int] = []

    def module(self) -> Module:
        sections = {
            _TYPES: self._type, _IMPORTS: self._import, _FUNCTIONS: self._function, _TABLES: self._table,
            _MEMORIES: self._memory, _EXPORTS: self._export,
        }  # fmt: skip
        while self._at < len(self._content):
            number, length = self._byte(), self._number()
            end = self._at + length
            if end > len(self._content):
                raise IndexError
            if number in sections:
                for _ in range(self._number()):
                    sections[number]()
            self._at = end
        return self._module

    def _type(self) -> None:
        form = self._byte()
        if form != _FUNCTION_TYPE:
            # Types of later proposals are of no fixed length; the rest of the section is left to the engine.
            raise NoModule("it uses types of garbage collection, which are not offered here")
        sides = [", ".join(self._value_type() for _ in range(self._number())) for _ in range(2)]
        self._types.append(f"({sides[0]}) -> ({sides[1]})")

    def _import(self) -> None:
        module, name, kind = self._name(), self._name(), self._byte()
        self._module.imports.append((module, name, kind))
        if kind == FUNCTION:
            self._functions.append(self._number())
        elif kind == TABLE:
            self._table()
        elif kind == MEMORY:
            self._memory()
        elif kind == GLOBAL:
            self._at += 2
        else:
            self._at += 1
            self._number()

    def _function(self) -> None:
        self._functions.append(self._number())

    def _table(self) -> None:
        self._byte()
        self._module.tables.append(self._limits()[0])

    def _memory(self) -> None:
        limits = self._limits()
        self._module.memories += 1
        if self._module.memory is None:
            self._module.memory = limits

    def _export(self) -> None:
        name, kind, index = self._name(), self._byte(), self._number()
        signature = self._types[self._functions[index]] if kind == FUNCTION else ""
        self._module.exports[name] = (kind, signature)

    def _limits(self) -> tuple[int, int | None]:
        flags, least = self._byte(), self._number()
        return least, self._number() if flags & _HAS_MAXIMUM else None

    def _value_type(self) -> str:
        number = self._byte()
        return _NAMES.get(number, f"type {number:#x}")

    def _name(self) -> str:
        length = self._number()
        raw = self._content[self._at : self._at + length]
        if len(raw) < length:
            raise IndexError
        self._at += length
        return raw.decode()

    def _byte(self) -> int:
        value = self._content[self._at]
        self._at += 1
        return value

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
            shift += 7
            if shift > 63:
                raise IndexError
