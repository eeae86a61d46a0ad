"""A small table-driven validator: tables of keys in, checked values and a list of all faults out.

It knows nothing of any daemon. What a file may hold is a table of :class:`Key`; what a single value may
be is a :class:`Kind`. Rules kept here: reading never stops at the first fault and never raises for
what the file holds; every fault names the file, the key path, the value found and what is allowed; a
faulty value is left out, so that later rules judge only what is sound.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Container, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

#: Default of a key that must be there.
REQUIRED: Final = object()

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_INDEX = re.compile(r"\[\d+\]")
_LONGEST_SHOWN = 60
#: Python refuses to print integers beyond some 4300 digits; long before that nobody reads them.
_LARGEST_SHOWN_BITS = 160


class NotAllowed(ValueError):
    """A kind refuses a value. The text, if any, says what is wrong with this value in particular."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What one value may be: ``allowed`` in words; ``parse`` gives it or raises :class:`NotAllowed`.

    No fault ever shows a ``secret`` value. ``schema``: what JSON Schema can say of it.
    """

    allowed: str
    parse: Callable[[object], Any]
    secret: bool = False
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table. ``many``: a list of ``least`` to ``most`` of what it holds, no two equal.

    ``holds`` is a kind of value or a table of keys. A key without ``default`` must be there.
    """

    holds: Kind | Keys
    default: Any = REQUIRED
    many: bool = False
    least: int = 0
    most: int | None = None

    @property
    def required(self) -> bool:
        """Whether it must be there."""
        return self.default is REQUIRED


Keys = Mapping[str, Key]
_NO_NAMES: Final[Mapping[str, str]] = {}


@dataclass(slots=True)
class Table:
    """A table of the file as far as it is sound. ``names``: what the file calls a key, where it differs."""

    path: str
    values: dict[str, Any]
    names: Mapping[str, str] = field(default_factory=lambda: _NO_NAMES)
    #: The keys that say anything, sound or not, where that is known; all others have their defaults.
    said: AbstractSet[str] | None = None

    def says(self, *keys: str) -> bool:
        """Whether any of these keys may say anything but its default."""
        return self.said is None or not self.said.isdisjoint(keys)

    def get(self, key: str) -> Any:
        """The checked value or the default; None if what stands there is faulty."""
        return self.values.get(key)

    def at(self, key: str) -> str:
        """The key path, as a fault names it."""
        return join(self.path, self.names.get(key, key))


class Faults:
    """Every fault found in one file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[str] = []

    def add(self, path: str, text: str) -> None:
        """One fault at a key path."""
        self.problems.append(f"{self.name}: {path} {text}")

    def refuse(self, path: str, value: object, allowed: str, why: str = "") -> None:
        """A value that is not what is allowed there."""
        self.add(path, f"is {show(value)}{f', {why}' if why else ''}; allowed: {allowed}")


def read_table(value: object, path: str, keys: Keys, faults: Faults, *, shared: bool = False) -> Table:
    """Check one table against its keys.

    ``shared``: what is the same object in several tables is read once, and has the path of the first: where
    there is any fault then, read all again without.
    """
    return _Reader(keys, shared=shared).read(value, path, faults)


class _Reader:
    """Reads tables of one kind, of which a file may hold thousands.

    What one before had under a key, the same object, which cannot change, is read as the same; where tables
    are ``shared``, also what can.
    """

    __slots__ = ("_below", "_defaults", "_keys", "_rest", "_seen", "_shared")

    def __init__(self, keys: Keys, *, shared: bool) -> None:
        self._keys = keys
        self._shared = shared
        self._defaults: dict[str, Any] = {}
        #: What is missing where it does not stand there, or is a table whose own defaults hold.
        self._rest: list[tuple[str, Key]] = []
        for name, key in keys.items():
            if key.required or not (isinstance(key.holds, Kind) or key.many):
                self._rest.append((name, key))
            else:
                self._defaults[name] = key.default
        self._seen: dict[str, tuple[object, Any]] = {}
        self._below: dict[str, _Reader] = {}

    def read(self, value: object, path: str, faults: Faults) -> Table:
        """Check one."""
        keys, seen = self._keys, self._seen
        if not isinstance(value, dict):
            faults.refuse(path, value, f"a table with the keys {', '.join(keys)}")
            return Table(path, {})
        values = self._defaults.copy()
        for name, item in value.items():
            known = seen.get(name)
            if known is not None and known[0] is item:
                values[name] = known[1]
                continue
            key = keys.get(name)
            if key is None:
                faults.add(
                    join(path, name), f"is an unknown key{near(name, keys)}; allowed: {', '.join(keys)}"
                )
            elif item == [] and key.many and not key.least:
                values[name] = ()
                seen[name] = item, ()
            elif key.many or not isinstance(key.holds, Kind):
                # Of what is faulty as a whole there is nothing.
                values.pop(name, None)
                values.update(self._read(item, name, join(path, name), key, faults))
                if self._shared and name in values:
                    seen[name] = item, values[name]
            else:
                # Nearly all keys of thousands of tables are so: no path is made that no fault names.
                try:
                    values[name] = parsed = _parsed(item, key.holds)
                except NotAllowed as error:
                    values.pop(name, None)
                    _refuse(item, join(path, name), key.holds, error, faults)
                else:
                    if isinstance(item, (str, int, float)):
                        seen[name] = item, parsed
        for name, key in self._rest:
            if name in value:
                continue
            if key.required:
                faults.add(join(path, name), f"is missing; allowed: {_allowed(key)}")
            elif not isinstance(key.holds, Kind):
                values[name] = self._reader(name, key.holds).read({}, join(path, name), faults)
        defaults = self._defaults
        said = {
            name for name in value if name not in values or values[name] is not defaults.get(name, REQUIRED)
        }
        return Table(path, values, said=said)

    def _reader(self, name: str, keys: Keys) -> _Reader:
        """What reads the tables under a key."""
        found = self._below.get(name)
        if found is None:
            found = self._below[name] = _Reader(keys, shared=self._shared)
        return found

    def _read(self, value: object, name: str, path: str, key: Key, faults: Faults) -> dict[str, Any]:
        """What a key of tables or lists holds, under its name; nothing if it is faulty as a whole."""
        if not key.many:
            return {name: self._read_one(value, name, path, key.holds, faults)}
        if not isinstance(value, list):
            written = "" if isinstance(key.holds, Kind) else f", written [[{_INDEX.sub('', path)}]]"
            faults.refuse(path, value, _allowed(key) + written)
            return {}
        too_many = key.most is not None and len(value) > key.most
        if len(value) < key.least or too_many:
            faults.add(path, f"has {count(len(value), 'entry', 'entries')}; allowed: {_allowed(key)}")
        if too_many:
            # What is wrong with each would bury that.
            return {}
        holds = key.holds
        items = [
            self._read_one(item, name, f"{path}[{index}]", holds, faults) for index, item in enumerate(value)
        ]
        if isinstance(holds, Kind):
            first: dict[Any, int] = {}
            for index, item in enumerate(items):
                if item is not None and first.setdefault(item, index) != index:
                    faults.refuse(
                        f"{path}[{index}]", value[index], "each once", f"as {path}[{first[item]}] is"
                    )
        return {name: tuple(items)}

    def _read_one(self, value: object, name: str, path: str, holds: Kind | Keys, faults: Faults) -> Any:
        if not isinstance(holds, Kind):
            return self._reader(name, holds).read(value, path, faults)
        try:
            return _parsed(value, holds)
        except NotAllowed as error:
            _refuse(value, path, holds, error, faults)
            return None


def _parsed(value: object, kind: Kind) -> Any:
    if not is_text(value):
        raise NotAllowed("in which there is a surrogate, which is no character that UTF-8 has")
    return kind.parse(value)


def is_text(value: object) -> bool:
    """Whether every text in a value can be written.

    JSON can say halves of characters (surrogates), which no file, environment or answer can hold.
    """
    if isinstance(value, str):
        return value.isascii() or value.encode(errors="ignore").decode() == value
    if isinstance(value, dict):
        return all(is_text(key) and is_text(each) for key, each in value.items())
    return not isinstance(value, list) or all(map(is_text, value))


def _refuse(value: object, path: str, kind: Kind, error: NotAllowed, faults: Faults) -> None:
    if kind.secret:
        faults.add(path, f"is not what it must be (not shown: a secret); allowed: {kind.allowed}")
    else:
        faults.refuse(path, value, kind.allowed, str(error))


def _allowed(key: Key) -> str:
    if isinstance(key.holds, Kind):
        what = key.holds.allowed
        return f"a list{_bounds(key)}, each {what}" if key.many else what
    if key.many:
        return f"a list of tables{_bounds(key)}, each with the keys {', '.join(key.holds)}"
    return f"a table with the keys {', '.join(key.holds)}"


def _bounds(key: Key) -> str:
    if key.most is not None:
        return f" of {key.least} to {key.most}" if key.least else f" of at most {key.most}"
    return f" of at least {key.least}" if key.least else ""


def json_schema(keys: Keys, optional: Container[str] = ()) -> dict[str, Any]:
    """A table of keys as JSON Schema. ``optional``: those that need not be there, or may be null."""
    needed = [name for name, key in keys.items() if key.required and name not in optional]
    return {
        "type": "object",
        "properties": {
            name: _property(key, nullable=not key.required or name in optional) for name, key in keys.items()
        },
        "additionalProperties": False,
        **({"required": needed} if needed else {}),
    }


def _property(key: Key, *, nullable: bool) -> dict[str, Any]:
    holds = key.holds
    one = {**holds.schema, "description": holds.allowed} if isinstance(holds, Kind) else json_schema(holds)
    if key.many:
        one = {"type": "array", "items": one, "minItems": key.least, "uniqueItems": True}
        if key.most is not None:
            one["maxItems"] = key.most
    return {"anyOf": [one, {"type": "null"}]} if nullable else one


def join(path: str, key: str) -> str:
    """The path of a key inside a table; keys that TOML would quote are quoted."""
    return f"{path}.{_shown(key)}" if path else _shown(key)


@lru_cache(256)
def _shown(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) and len(key) <= _LONGEST_SHOWN else show(key)


def count(number: int, one: str, several: str = "") -> str:
    """A number with its noun."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def near(word: str, choices: Iterable[str]) -> str:
    """A half sentence that names the choice nearest to a mistyped word, or nothing."""
    if len(word) > _LONGEST_SHOWN:
        return ""
    folded = {choice.lower(): choice for choice in choices}
    match = difflib.get_close_matches(word.lower(), folded, n=1)
    return f' (did you mean "{folded[match[0]]}"?)' if match else ""


def show(value: object) -> str:
    """A value as TOML writes it, in printable ASCII and cut to what a line can carry."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and value.bit_length() > _LARGEST_SHOWN_BITS:
        return f"an integer of {value.bit_length()} bits"
    text = json.dumps(value) if isinstance(value, (str, bool)) else str(value)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."
