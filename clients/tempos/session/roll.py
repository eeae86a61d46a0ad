"""What a client is a member of, as the broker lists it: page by page, what is new since a version.

Sans-IO, values only. A list of the whole tells what one is a member of no more by not naming it; so does the
count that comes with each page. Pages that do not follow what is known are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from tempos import _abi
from tempos.errors import WireError
from tempos.model import Topic
from tempos.session.rows import topic_about

_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1


class Row(NamedTuple):
    """A membership in force, and of how many members the group is."""

    topic: Topic
    group: str
    epoch: int
    members: int
    #: Whether what is missed of it can be had again, and whether what members leave behind goes to others.
    repaired: bool = False
    redelivered: bool = False


@dataclass(frozen=True, slots=True)
class News:
    """What a page tells. ``come``: memberships that were not known; ``stay``: the others that it names.

    ``gone``: by name, why one is a member no more; "" where that is not said. ``words``: the same in words,
    where the broker has some. ``complete``: nothing is left to be told.
    """

    come: list[Row] = field(default_factory=list)
    stay: list[Row] = field(default_factory=list)
    gone: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    complete: bool = False


class Roll:
    """The memberships of one endpoint. ``since``: what was told so far, as requests name it."""

    def __init__(self) -> None:
        self.since: tuple[int, int] = (0, 0)
        #: Of how many topics the broker says that this is a member.
        self.count = 0
        #: What the broker says of its fleet: see :class:`.events.Listed`.
        self.fleet: tuple[int, int, int] | None = None
        #: Whether the broker is about to leave its fleet.
        self.leaves = False
        self._seats: dict[int, Topic] = {}
        #: Those that the list of the whole under way has not named yet.
        self._unseen: set[int] | None = None

    def __len__(self) -> int:
        return len(self._seats)

    @property
    def names(self) -> list[str]:
        """The topics that this is a member of."""
        return [topic.name for topic in self._seats.values()]

    def begin_anew(self) -> None:
        """Have all of it told again."""
        self.since = (0, 0)

    def clear(self) -> list[str]:
        """Nothing is known any more; what was."""
        names = self.names
        self.__init__()  # type: ignore[misc]
        return names

    def drop(self, names: Sequence[str]) -> None:
        """These were left on purpose."""
        for topic in [topic for topic, known in self._seats.items() if known.name in names]:
            del self._seats[topic]

    def take(self, fields: Mapping[str, Any], asked: Sequence[int]) -> News | None:
        """Take a page in; ``asked``: since when it was asked for. None: it does not follow what is known.

        Raises :class:`WireError`, and changes nothing, if it is none.
        """
        life, base, version, count = (
            _whole(fields, name, most)
            for name, most in (("life", _U32), ("base", _U64), ("version", _U64), ("count", _U64))
        )
        journals, retained = _list(fields, "journals"), _list(fields, "retained")
        again = _list(fields, "repaired"), _list(fields, "redelivered")
        rows = [_row(row, fields.get("group"), *again) for row in _list(fields, "rows")]
        rows = [_kept(row, journals, retained) for row in rows] if journals else rows
        gone = [_gone(row) for row in _list(fields, "gone")]
        fleet, leaves = _fleet(fields.get("fleet"))
        if tuple(asked) != self.since or (base and (life, base) != self.since):
            return None
        news = News(complete=not fields.get("more"))
        if not base:
            self._unseen = set(self._seats)
        for topic, name, why, *words in gone:
            self._see(topic)
            known = self._seats.get(topic)
            if known is not None and known.name == name:
                del self._seats[topic]
            news.gone[name] = why
            news.words.update((name, text) for text in words)
        for row in rows:
            self._see(row.topic.id)
            known = self._seats.get(row.topic.id)
            if known is not None and known.name != row.topic.name:
                news.gone.setdefault(known.name, "")
            same = known is not None and (known.name, known.framing) == (row.topic.name, row.topic.framing)
            (news.stay if same else news.come).append(row)
            self._seats[row.topic.id] = row.topic
            news.gone.pop(row.topic.name, None)
        self.since, self.count = (life, version), count
        self.fleet, self.leaves = fleet, leaves
        if news.complete and self._unseen is not None:
            for topic in self._unseen:
                lost = self._seats.pop(topic, None)
                if lost is not None:
                    news.gone.setdefault(lost.name, "")
            self._unseen = None
        return news

    def _see(self, topic: int) -> None:
        if self._unseen is not None:
            self._unseen.discard(topic)


def _whole(fields: Mapping[str, Any], name: str, most: int) -> int:
    value = fields.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise WireError(f"a list of memberships without a usable {name}")
    return value


def _list(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name, [])
    if not isinstance(value, list):
        raise WireError(f"a list of memberships whose {name} are none")
    return value


def _row(row: Any, group: Any, repaired: list[Any], redelivered: list[Any]) -> Row:
    if not isinstance(row, list) or len(row) not in (5, 6):
        raise WireError("a membership that is none")
    topic, name, told, epoch, members, *own = row
    group = own[0] if own else group
    numbers = (topic, told, epoch, members)
    if any(type(each) is not int or each < 0 for each in numbers) or not _is_topic(topic) or told > 0x1F:
        raise WireError("a membership with numbers that cannot be")
    if not isinstance(name, str) or not name or not isinstance(group, str) or epoch > _U32:
        raise WireError("a membership without topic and group")
    described = topic_about(topic, name, told)
    return Row(described, group, epoch, members, topic in repaired, topic in redelivered)


def _kept(row: Row, journals: list[Any], retained: list[Any]) -> Row:
    """With what is known of its journal: whether there is one, and whether the last event is given first."""
    topic = row.topic
    if topic.id not in journals:
        return row
    return row._replace(topic=replace(topic, journal=1, retain=topic.id in retained))


def _fleet(told: Any) -> tuple[tuple[int, int, int] | None, bool]:
    """The state, with two counts, and whether the broker is about to leave."""
    if told is None:
        return None, False
    if not isinstance(told, list) or len(told) < 3 or any(type(each) is not int or each < 0 for each in told):
        raise WireError("what is told of a fleet is not its state and two counts")
    return (told[0], told[1], told[2]), told[3:4] == [1]


def _gone(row: Any) -> list[Any]:
    if not isinstance(row, list) or len(row) not in (3, 4) or type(row[0]) is not int:
        raise WireError("a membership that is over, without its topic")
    if not all(isinstance(each, str) for each in row[1:]):
        raise WireError("a membership that is over, without a name")
    return row


def _is_topic(topic: int) -> bool:
    return _abi.TOPIC_MIN <= topic < 0xFFFF
