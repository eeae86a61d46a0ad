"""Names of topics and filters over them: levels parted by ``/``, by the rules of MQTT 5 (its section 4.7).

    plant/line1/press/temperature    a name of four levels; levels may be empty, letters count as they are
    plant/+/press/temperature        ``+`` is any one level, also an empty one
    plant/#                          ``#``, always the last, is any number of levels, also none: plant matches
    #, +/press                       a wildcard in front does not match names that begin with ``$``

Pure functions: what is wrong with a name or a filter, whether they match, and whether a filter asks for no
more than others allow. Rules beyond MQTT's: at most :data:`MAX_BYTES` of UTF-8, printable, composed (NFC), so
that what looks alike is alike, and no white space at the ends. Names that begin with ``$`` are the broker's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache

from tempos.errors import LocalError

#: Bytes of a name or a filter in UTF-8.
MAX_BYTES = 256
SEPARATOR, ANY_LEVEL, ANY_REST = "/", "+", "#"
#: How the names begin that no user's topic has.
RESERVED = "$"
#: How MQTT writes a filter for members of a group.
_SHARED = "$share/"

_TEXT = f"text of 1 to {MAX_BYTES} bytes, printable, composed (NFC), no white space at the ends"
#: What is allowed, in words.
NAME_RULE = f'{_TEXT}; levels parted by "/"; no "+" or "#", not beginning with "$"'
FILTER_RULE = f'{_TEXT}; levels parted by "/"; "+" alone in a level, "#" alone in the last one'

#: Whether a name matches.
Matcher = Callable[[str], bool]


def name_fault(value: object) -> str | None:
    """What is wrong with the name of a topic, beginning with "which"; None: nothing.

    An empty text where there is nothing to say but the rule.
    """
    fault = _text_fault(value)
    if fault is not None or not isinstance(value, str):
        return fault
    if ANY_LEVEL in value or ANY_REST in value:
        return 'which has "+" or "#" in it: they stand for levels in filters'
    if value.startswith(RESERVED):
        return 'which begins with "$": such names are the broker\'s'
    return None


def filter_fault(value: object) -> str | None:
    """What is wrong with a filter, as :func:`name_fault` says it. Every name is a filter, too."""
    return _filter_fault(value) if isinstance(value, str) else ""


@lru_cache(maxsize=1024)
def _filter_fault(value: str) -> str | None:
    """Who is to prove something first asks for the same three times, and many ask for the same."""
    fault = _text_fault(value)
    if fault is not None:
        return fault
    if value.startswith(_SHARED):
        return "which is how MQTT names a group: here the group is named apart from the filter"
    *before, last = value.split(SEPARATOR)
    for level in before:
        if ANY_REST in level:
            return 'which has "#" where it is not the last level'
        if ANY_LEVEL in level and level != ANY_LEVEL:
            return 'which has "+" beside other characters in a level'
    if last != ANY_REST and ANY_REST in last:
        return 'which has "#" beside other characters in a level'
    if last != ANY_LEVEL and ANY_LEVEL in last:
        return 'which has "+" beside other characters in a level'
    return None


def check_name(value: str) -> str:
    """The name; raises :class:`LocalError` for one that no topic can have."""
    return _checked("a topic's name", value, name_fault(value), NAME_RULE)


def check_filter(value: str) -> str:
    """The filter, or name; raises :class:`LocalError` for what is neither."""
    return _checked("a filter", value, filter_fault(value), FILTER_RULE)


def is_filter(value: str) -> bool:
    """Whether this asks by a wildcard; otherwise it is a name, and matches that one only."""
    return ANY_LEVEL in value or ANY_REST in value


def matches(wanted: str, name: str) -> bool:
    """Whether the filter ``wanted`` matches a name; both are sound."""
    return matcher(wanted)(name)


@lru_cache(maxsize=1024)
def matcher(wanted: str) -> Matcher:
    """The test that a sound filter makes, for many names."""
    if not is_filter(wanted):
        return wanted.__eq__
    levels = wanted.split(SEPARATOR)
    rest = levels[-1] == ANY_REST
    known = [_ANY if level == ANY_LEVEL else re.escape(level) for level in levels[: -1 if rest else None]]
    # What "#" stands for begins with the separator before it, so that the level above matches, too.
    pattern = SEPARATOR.join(known) + ("(?:/.*)?" if known and rest else ".*" if rest else "")
    if levels[0] in (ANY_LEVEL, ANY_REST):
        pattern = rf"(?!\{RESERVED}){pattern}"
    found = re.compile(pattern, re.DOTALL).fullmatch
    return lambda name: found(name) is not None


def covered(wanted: str, by: Iterable[str]) -> bool:
    """Whether every name that the filter ``wanted`` can match is matched by one of ``by``.

    Of names that nobody has yet, too, however long; it need not be the same filter for all of them.
    """
    levels = wanted.split(SEPARATOR)
    rest = levels[-1] == ANY_REST
    # A wildcard of ``wanted`` stands for levels that no filter of ``by`` names, too; whichever of these
    # matches such a level matches every one. So it is enough to go with those that have a wildcard there.
    alive = [each.split(SEPARATOR) for each in by]
    depth = 0
    for level in levels[: -1 if rest else None]:
        wild = depth > 0 or not level.startswith(RESERVED)
        if wild and _at(alive, depth, ANY_REST):
            return True
        fitting = {level, ANY_LEVEL} if wild else {level}
        alive = [each for kind in fitting for each in _at(alive, depth, kind)]
        depth += 1
    # Here names end, and with "#" at every depth from here on, but for those without any level.
    while alive and not _at(alive, depth, ANY_REST):
        ends = any(len(each) == depth for each in alive)
        if not rest or not (ends or depth == 0):
            return ends and not rest
        alive = _at(alive, depth, ANY_LEVEL)
        depth += 1
    return bool(alive)


def _at(filters: list[list[str]], depth: int, level: str) -> list[list[str]]:
    """Those that have this level at that place."""
    return [each for each in filters if len(each) > depth and each[depth] == level]


class FilterTree:
    """Sound filters, found by the names that they match: by a name's levels, not by how many there are."""

    __slots__ = ("_root",)

    def __init__(self) -> None:
        self._root = _Node()

    def add(self, wanted: str) -> None:
        """Take a filter in; one that is there already changes nothing."""
        node = self._root
        for level in wanted.split(SEPARATOR):
            node = node.below.setdefault(level, _Node())
        node.wanted = wanted

    def discard(self, wanted: str) -> None:
        """Forget a filter, if it is there, and what only led to it."""
        way = [(self._root, "")]
        for level in wanted.split(SEPARATOR):
            node = way[-1][0].below.get(level)
            if node is None:
                return
            way.append((node, level))
        way[-1][0].wanted = None
        while len(way) > 1:
            node, level = way.pop()
            if node.wanted is not None or node.below:
                return
            del way[-1][0].below[level]

    def matching(self, name: str) -> list[str]:
        """The filters that match a name."""
        found: list[str] = []
        levels = name.split(SEPARATOR)
        nodes = [self._root]
        for depth, level in enumerate(levels):
            wild = depth > 0 or not name.startswith(RESERVED)
            below: list[_Node] = []
            for node in nodes:
                if wild and (rest := node.below.get(ANY_REST)) is not None and rest.wanted is not None:
                    found.append(rest.wanted)
                keys = (level, ANY_LEVEL) if wild else (level,)
                below += [node.below[key] for key in keys if key in node.below]
            nodes = below
        for node in nodes:
            if node.wanted is not None:
                found.append(node.wanted)
            if (rest := node.below.get(ANY_REST)) is not None and rest.wanted is not None:
                found.append(rest.wanted)
        return found


class _Node:
    """A level of filters; ``wanted``: the filter that ends here."""

    __slots__ = ("below", "wanted")

    def __init__(self) -> None:
        self.below: dict[str, _Node] = {}
        self.wanted: str | None = None


_ANY = f"[^{SEPARATOR}]*"


def _text_fault(value: object) -> str | None:
    if not isinstance(value, str) or not value:
        return ""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "which is no text that UTF-8 has"
    if size > MAX_BYTES:
        return f"which takes {size} bytes"
    if "\0" in value:
        return "which has the character NUL"
    if not value.isprintable():
        return "which has characters that cannot be printed"
    if value != value.strip():
        return "which has white space at an end"
    if not unicodedata.is_normalized("NFC", value):
        return "which is not composed (NFC): another spelling looks the same"
    return None


def _checked(what: str, value: str, fault: str | None, rule: str) -> str:
    if fault is not None:
        why = f", {fault}" if fault else ""
        raise LocalError(f"{what} is {_shown(value)}{why}; allowed: {rule}")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
