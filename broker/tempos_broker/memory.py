"""What is written of a topic into the store, and what can be taken up again from there.

Values in, values out: no I/O, no clock. Leases are stored as seconds that remain at a time of the wall
clock, because the monotonic one means nothing to another life. What cannot be understood, be it of a wrong
type, without sense or at odds with itself, raises one of :data:`UNREADABLE`, and nothing else.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tempos import Framing, Reason, Topic
from tempos._abi import GROUPS_PER_TOPIC
from tempos_broker.account.accounts import Holder
from tempos_broker.counts import Counters
from tempos_broker.members.departures import Place

#: What taking up a document may raise that somebody else wrote.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
_T = TypeVar("_T")
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1
#: Epochs that may be open: the one in force, and one that a swap under way was about to close.
_OPEN = 2


@dataclass(frozen=True, slots=True)
class Kept:
    """A member with a lease. ``remaining``: seconds of it that were left at the time of writing.

    ``source``: the address of ours that it asked, if that is known.
    """

    group: str
    ip: str
    port: int
    client: int
    remaining: float
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Remembered:
    """A topic as a former life left it. ``live``: epoch -> tickets drawn from each group when written."""

    name: str
    framing: Framing
    wall: float
    members: tuple[Kept, ...]
    ledger: Mapping[str, Any]
    live: Mapping[int, Sequence[int]]
    slow: Mapping[Reason, int]
    fast: Mapping[Reason, int]
    fast_raw: Mapping[Reason, int]

    def is_of(self, topic: Topic) -> bool:
        """Whether this is the past of a topic, rather than of another one that had its id."""
        return (self.name, self.framing) == (topic.name, topic.framing)


def write(memory: Remembered) -> dict[str, Any]:
    """As JSON values."""
    return {
        "name": memory.name,
        "framing": memory.framing.value,
        "wall": memory.wall,
        "members": [[m.group, m.ip, m.port, m.client, m.remaining, m.source] for m in memory.members],
        "ledger": memory.ledger,
        "live": [[epoch, list(tickets)] for epoch, tickets in memory.live.items()],
        "slow": _named(memory.slow),
        "fast": _named(memory.fast),
        "fast_raw": _named(memory.fast_raw),
    }


def read(document: Any) -> Remembered:
    """From JSON values; raises one of :data:`UNREADABLE`."""
    memory = Remembered(
        _text(document["name"]),
        Framing(document["framing"]),
        _seconds(document["wall"]),
        tuple(_kept(*_list(row)) for row in _list(document["members"])),
        document["ledger"],
        {
            _whole(epoch, 0, _U32): [_whole(each) for each in tickets]
            for epoch, tickets in _list(document["live"])
        },
        _reasons(document["slow"]),
        _reasons(document["fast"]),
        _reasons(document["fast_raw"]),
    )
    _check_ledger(memory.ledger)
    return memory


def instance_in(broker: Mapping[str, Any]) -> int | None:
    """The number of the lives that a stored state belongs to, if it says one."""
    try:
        return _whole(broker.get("instance"), 1, _U32)
    except ValueError:
        return None


def alive_in(broker: Mapping[str, Any]) -> float:
    """When the former life wrote last, by the wall clock; 0 where it does not say."""
    try:
        return _seconds(broker.get("wall"))
    except ValueError:
        return 0.0


def name_in(document: Any) -> str | None:
    """The name of a topic in what is stored of it, if it says one."""
    try:
        return _text(document["name"])
    except UNREADABLE:
        return None


def drains_in(broker: Mapping[str, Any], wall: float) -> Iterator[tuple[Holder, list[int], float]]:
    """Who drained, of which topics, and the seconds left; ``wall`` is the time now. Nonsense is left out."""
    try:
        passed = max(0.0, wall - _seconds(broker.get("wall")))
        rows = _list(broker["leaving"])
    except UNREADABLE:
        return
    for row in rows:
        try:
            ip, port, client, topics, left = row
            holder = Holder(_address(ip), _whole(port, 1, 0xFFFF), _whole(client))
            found = holder, _wholes(topics), _seconds(left) - passed
        except UNREADABLE:
            continue
        yield found


def kept_out_in(broker: Mapping[str, Any]) -> Iterator[tuple[Place, float | None]]:
    """Whom an operator keeps out, and until when by the wall clock. Nonsense is left out."""
    rows = broker.get("kept_out")
    for row in rows if type(rows) is list else ():
        try:
            topic, group, ip, port, until = row
            place = Place(_text(topic), _text(group), _address(ip), _whole(port, 1, 0xFFFF))
            found = place, None if until is None else _seconds(until)
        except UNREADABLE:
            continue
        yield found


def _check_ledger(stored: Any) -> None:
    """Whether an exported account is one, to the type of every value, and agrees with itself."""
    latest = _whole(stored["epoch"], 0, _U32)
    _whole(stored["drawn"])
    _wholes(stored["unequal"])
    _flag(stored.get("forgot", False))
    accounts: dict[str, set[Holder]] = {}
    for group in _list(stored["groups"]):
        _whole(group.get("unsent", 0))
        _whole(group.get("dropped", 0))
        _sums(group["sums"], 4)
        _distinct(_check_settled(*_list(row)) for row in _list(group["settled"]))
        name = _text(group["name"])
        if name in accounts:
            raise ValueError(f"there are two groups {name!r}")
        accounts[name] = _distinct(_check_account(account) for account in _list(group["accounts"]))
    if len(_list(stored["open"])) > _OPEN:
        raise ValueError(f"{len(stored['open'])} epochs cannot be open")
    for epoch, groups in stored["open"]:
        if _whole(epoch, 0, _U32) > latest or len(_list(groups)) > GROUPS_PER_TOPIC:
            raise ValueError(f"epoch {epoch} cannot be open")
        for name, members in groups:
            if not _list(members) or not _distinct(map(_holder, members)) <= accounts.get(name, set()):
                raise ValueError(f"a holder of group {name!r} has no account")
    _distinct(epoch for epoch, _ in stored["open"])


def _check_account(account: Any) -> Holder:
    _sums(account["sums"], 5)
    _flag(account["left"])
    for pairs in (account["shares"], account["counts"]):
        _distinct(_whole(epoch, 0, _U32) for epoch, count in _list(pairs) if _whole(count) >= 0)
    _distinct(_wholes(account["cut"]))
    if account.get("said") is not None:
        _sums(account["said"], 2)
    _sums(account.get("drops", [0, 0]), 2)
    _flag(account.get("unsure", False))
    return _holder(account["holder"])


def _check_settled(holder: Any, received: Any, dropped: Any = 0) -> Holder:
    _wholes([received, dropped])
    return _holder(holder)


def _flag(value: Any) -> None:
    if type(value) is not bool:
        raise ValueError(f"{value!r} is neither true nor false")


def _sums(values: Any, count: int) -> None:
    if len(_wholes(values)) != count:
        raise ValueError(f"{values!r} are not {count} sums")


def _distinct(values: Iterable[_T]) -> set[_T]:
    listed = list(values)
    if len(found := set(listed)) != len(listed):
        raise ValueError("the same stands there twice")
    return found


def _whole(value: Any, least: int = 0, most: int = _U64) -> int:
    # True is an int to Python, and no number to anybody else.
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{value!r} is no whole number from {least} to {most}")
    return value


def _wholes(values: Any) -> list[int]:
    return [_whole(value) for value in _list(values)]


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError(f"{value!r} is no list")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number of seconds")
    return float(value)


def _text(value: Any) -> str:
    if type(value) is not str or not value:
        raise ValueError(f"{value!r} is no name")
    return value


def _address(value: Any) -> str:
    return str(ipaddress.IPv4Address(_text(value)))


def _holder(stored: Any) -> Holder:
    ip, port, client = _list(stored)
    holder_port = _whole(port, 1, 0xFFFF)
    return Holder(_address(ip), holder_port, None if client is None else _whole(client))


def _kept(group: Any, ip: Any, port: Any, client: Any, left: Any, source: Any = None) -> Kept:
    # What was written before members had sources has none.
    known = None if source is None else _address(source)
    return Kept(_text(group), _address(ip), _whole(port, 1, 0xFFFF), _whole(client), _seconds(left), known)


class Offsets:
    """What is to be added to counters that began anew, or not, with this life."""

    def __init__(self) -> None:
        self._of: dict[int, dict[Reason, int]] = {}

    def set(self, topic: int, wanted: Mapping[Reason, int], now: Mapping[Reason, int]) -> None:
        """From here on the topic's counters go on from ``wanted``; ``now`` is what they say themselves."""
        self._of[topic] = {reason: wanted.get(reason, 0) - now.get(reason, 0) for reason in {*wanted, *now}}

    def forget(self, topic: int) -> None:
        self._of.pop(topic, None)

    def applied(self, counters: Counters) -> Counters:
        """The counters over all lives."""
        return {topic: self.applied_to(topic, counters.get(topic, {})) for topic in {*counters, *self._of}}

    def applied_to(self, topic: int, row: Mapping[Reason, int]) -> Mapping[Reason, int]:
        """One topic's counters over all lives."""
        offset = self._of.get(topic)
        if not offset:
            return row
        return {reason: row.get(reason, 0) + offset.get(reason, 0) for reason in {*row, *offset}}


def _named(counts: Mapping[Reason, int]) -> dict[str, int]:
    return {reason.label: count for reason, count in counts.items() if count}


def _reasons(counts: Mapping[str, int]) -> dict[Reason, int]:
    # A reason that this version does not have any more is left out, with its count.
    return {_BY_LABEL[label]: _whole(count) for label, count in counts.items() if label in _BY_LABEL}


_BY_LABEL = {reason.label: reason for reason in Reason}
