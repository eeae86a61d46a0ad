"""The last changes of what the broker serves, in words for operators, kept in memory: the log's own words.

Who changes something tells it here, once, and here it goes into the log as well. Rules: so many are kept, the
oldest goes first; each has a running number, and one that grows (the same member joins more topics, more
members join the same group, all within a moment) gets the next number, so that who asks from a number on
misses nothing.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from itertools import islice
from typing import Any

from tempos.control import Out
from tempos.model import Group

#: Changes that are kept; names of topics or members that one has; those that may still grow.
KEPT, NAMED, GROWING = 100, 8, 8
#: Seconds within which the same change of more topics or members is the same one.
MERGED = 2.0
#: What the name of a group begins with that a subscriber is for itself.
_OWN = "~"

log = logging.getLogger("tempos.broker")


class Kind(Enum):
    """What changed."""

    START = "start"
    JOINED = "joined"
    LEFT = "left"
    LEASE = "lease ended"
    OUT = "taken out"
    LET_IN = "let in"
    PATH = "path"
    TOPIC = "topic"
    RELOAD = "reload"
    REACH = "reach"
    WORKER = "worker"
    AWAITED = "awaited"
    WRONG = "wrong"
    FLEET = "fleet"
    CLIENT = "client"


@dataclass(slots=True)
class Names:
    """The first names of many, and how many there are."""

    first: list[str] = field(default_factory=list)
    count: int = 0

    @classmethod
    def of(cls, names: Sequence[str]) -> Names:
        """All of these."""
        return cls(list(names[:NAMED]), len(names))

    def add(self, name: str) -> None:
        """One more, if it is not among the first already."""
        if name in self.first:
            return
        if len(self.first) < NAMED:
            self.first.append(name)
        self.count += 1

    def is_only(self, name: str) -> bool:
        """Whether it is this one and no other."""
        return self.count == 1 and self.first[0] == name

    def __str__(self) -> str:
        more = self.count - len(self.first)
        return ", ".join(self.first) + (f" and {more:,} more" if more else "")


@dataclass(slots=True)
class Change:
    """``at``: Unix seconds; ``words`` are of one whose topics and members may become more, or whole."""

    number: int
    at: float
    kind: Kind
    level: int
    words: str
    topics: Names = field(default_factory=Names)
    group: str = ""
    members: Names = field(default_factory=Names)

    @property
    def text(self) -> str:
        """The whole in words."""
        if not self.members.count:
            return self.words
        group = "" if not self.group or self.group.startswith(_OWN) else f"group {self.group!r} of "
        return self.words.format(members=self.members, places=f"{group}{self.topics}")

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        at = datetime.fromtimestamp(self.at, timezone.utc).isoformat(timespec="milliseconds")
        return {
            "number": self.number,
            "at": at,
            "kind": self.kind.value,
            "severity": "warning" if self.level >= logging.WARNING else "info",
            "text": self.text,
            "topics": list(self.topics.first),
            "topic_count": self.topics.count,
            "group": self.group,
            "members": list(self.members.first),
            "member_count": self.members.count,
        }


#: Of those that left, by why; whose lease ended, whoever noticed tells.
_LEFT = {
    "": (Kind.LEFT, "{members} left {places}"),
    Out.OPERATOR: (Kind.LEFT, "{members} left {places}: an operator took it out"),
    Out.KEPT_OUT: (Kind.LEFT, "{members} left {places}: an operator keeps it out"),
    Out.RELOAD: (Kind.LEFT, "{members} left {places}: the configuration has changed"),
    Out.REMOVED: (Kind.LEFT, "{members} left {places}: the topic was removed"),
}
_JOINED = "{members} joined {places}"
_LEASE = "{members} is gone from {places}: it was not heard of for as long as its lease is"


def _fields(kind: Kind, topic: str = "", group: str = "", member: str = "") -> dict[str, str]:
    """What a log for machines has beside the words."""
    told = {"change": kind.value, "topic": topic, "group": group, "member": member}
    return {name: value for name, value in told.items() if value}


class Changes:
    """``now``: Unix seconds; ``logger`` is told everything, too."""

    def __init__(self, logger: logging.Logger = log, now: Callable[[], float] = time.time) -> None:
        self._log = logger
        self._now = now
        self._kept: OrderedDict[int, Change] = OrderedDict()
        self._grown: OrderedDict[int, float] = OrderedDict()
        #: The running number of the last one.
        self.last = 0

    def of(self, kind: Kind, logger: logging.Logger | None = None) -> Teller:
        """A logger whose words are changes of this kind, over another one."""
        return Teller(logger or self._log, kind, self.note)

    def tell(self, kind: Kind, text: str, *, level: int = logging.INFO, topic: str = "") -> None:
        """Log it and keep it."""
        self._log.log(level, "%s", text, extra=_fields(kind, topic))
        self.note(kind, level, text, topic)

    def note(self, kind: Kind, level: int, text: str, topic: str = "") -> None:
        """Keep what is logged by others."""
        change = self._new(kind, level, text)
        if topic:
            change.topics.add(topic)

    def route(
        self, topic: str, before: Iterable[Group], after: Iterable[Group], why: Callable[[str, int], str]
    ) -> None:
        """A topic has other groups: who came and who went; ``why`` by endpoint, empty: it wanted to."""
        had, has = _places(before), _places(after)
        for group, ip, port in [place for place in had if place not in has]:
            self._left(f"{ip}:{port}", group, topic, why(ip, port))
        for group, ip, port in [place for place in has if place not in had]:
            self._member(Kind.JOINED, logging.INFO, _JOINED, f"{ip}:{port}", group, topic)

    def lease_ended(self, members: Sequence[str], topics: Sequence[str]) -> None:
        """Nothing was heard of members of these topics for too long."""
        for member in members:
            for topic in topics:
                self._member(Kind.LEASE, logging.WARNING, _LEASE, member, "", topic, quiet=True)
        told = _fields(Kind.LEASE, member=members[0]) if len(members) == 1 else _fields(Kind.LEASE)
        self._log.warning(
            "topic%s %s: the lease%s of %s ended", "s" * (len(topics) > 1), Names.of(topics),
            "s" * (len(members) > 1), Names.of(members), extra=told,
        )  # fmt: skip

    def since(self, number: int = 0) -> Iterator[Change]:
        """Those that came, or grew, after the one of this number, the oldest first."""
        return (change for change in list(self._kept.values()) if change.number > number)

    def _left(self, member: str, group: str, topic: str, why: str) -> None:
        if why == Out.LEASE or (not why and self._growing(Kind.LEASE, member)):
            return
        kind, words = _LEFT.get(why) or (Kind.LEFT, f"{{members}} left {{places}}: {Out.WORDS[why]}")
        self._member(kind, logging.INFO, words, member, group, topic)

    def _growing(self, kind: Kind, member: str) -> bool:
        return any(each.kind is kind and each.members.is_only(member) for each in self._recent())

    def _recent(self) -> Iterator[Change]:
        """Those that may grow, the newest first."""
        early = self._now() - MERGED
        for number in islice(reversed(self._grown), GROWING):
            if self._grown[number] < early:
                return
            yield self._kept[number]

    def _member(
        self, kind: Kind, level: int, words: str, member: str, group: str, topic: str, *, quiet: bool = False
    ) -> None:
        for known in self._recent():
            if (known.kind, known.words) != (kind, words):
                continue
            own = group.startswith(_OWN) and known.group.startswith(_OWN)
            same = own or known.group == group
            if same and known.members.is_only(member):
                known.topics.add(topic)
            elif same and known.topics.is_only(topic):
                known.members.add(member)
            else:
                continue
            self._renumber(known)
            break
        else:
            known = self._new(kind, level, words)
            known.group = group
            known.topics.add(topic)
            known.members.add(member)
            self._grown[known.number] = known.at
        if not quiet:
            place = f"{topic}, group {group}" if group else topic
            told = _fields(kind, topic, group, member)
            self._log.log(level, "%s", words.format(members=member, places=place), extra=told)

    def _new(self, kind: Kind, level: int, words: str) -> Change:
        self.last += 1
        change = self._kept[self.last] = Change(self.last, self._now(), kind, level, words)
        while len(self._kept) > KEPT:
            gone, _ = self._kept.popitem(last=False)
            self._grown.pop(gone, None)
        return change

    def _renumber(self, change: Change) -> None:
        del self._kept[change.number], self._grown[change.number]
        self.last += 1
        change.number = self.last
        self._kept[change.number] = change
        self._grown[change.number] = self._now()


class Teller(logging.LoggerAdapter):  # type: ignore[type-arg]
    """A logger; what it is told is kept by ``note`` as well, whatever the level of the log is."""

    def __init__(self, logger: logging.Logger, kind: Kind, note: Callable[[Kind, int, str], None]) -> None:
        super().__init__(logger, {})
        self._kind = kind
        self._note = note

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        self._note(self._kind, level, str(msg) % args if args else str(msg))
        super().log(level, msg, *args, **kwargs)


def _places(groups: Iterable[Group]) -> dict[tuple[str, str, int], None]:
    # In the order in which they are told.
    return {(group.name, each.ip, each.port): None for group in groups for each in group.members
            if not each.is_nobody}  # fmt: skip
