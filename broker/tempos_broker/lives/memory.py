"""What is written of a topic into the store, and what can be taken up again from there.

Values in, values out: no I/O, no clock. Leases are stored as seconds that remain at a time of the wall
clock, because the monotonic one means nothing to another life. What cannot be understood, be it of a wrong
type, without sense or at odds with itself, raises one of :data:`UNREADABLE`, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tempos import Framing, Reason, Topic
from tempos._abi import TOPIC_MAX
from tempos._slots import MOST_GROUPS
from tempos.control import Out
from tempos_broker.account.accounts import Holder
from tempos_broker.account.exporting import with_texts
from tempos_broker.lives.checks import (
    U32,
    address_of,
    distinct,
    flag,
    holder_of_row,
    listed,
    name_of,
    port_of,
    seconds,
    sums,
    whole,
    wholes,
)
from tempos_broker.lives.clock import same_start
from tempos_broker.members.departures import Place
from tempos_broker.slowpath.returns import KEY_LEN

#: What taking up a document may raise that somebody else wrote.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
#: Among the broker's own values: see :func:`promised_in`.
PROMISED = "promised"
#: Epochs that may be open: the one in force, and one that a swap under way was about to close.
OPEN = 2
#: Unix seconds: what is beyond is no time (the year 9000).
LATEST = 221_845_392_000


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

    def row(self) -> list[Any]:
        """As JSON values."""
        return [self.group, self.ip, self.port, self.client, self.remaining, self.source]


@dataclass(frozen=True, slots=True)
class Remembered:
    """A topic as a former life left it. ``live``: epoch -> tickets drawn from each group when written.

    ``steps``: the number of the last one (:mod:`.steps`) that is in it. ``row``: where the topic stands in
    the tables of counters; None: it was written before topics had rows.
    """

    name: str
    framing: Framing
    wall: float
    members: tuple[Kept, ...]
    ledger: Mapping[str, Any]
    live: Mapping[int, Sequence[int]]
    slow: Mapping[Reason, int]
    fast: Mapping[Reason, int]
    fast_raw: Mapping[Reason, int]
    steps: int = 0
    row: int | None = None

    def is_of(self, topic: Topic) -> bool:
        """Whether this is the past of a topic, rather than of another one that had its id."""
        return (self.name, self.framing) == (topic.name, topic.framing)


def write(memory: Remembered) -> dict[str, Any]:
    """As JSON values."""
    return {
        "name": memory.name,
        "framing": memory.framing.value,
        "wall": memory.wall,
        "members": [member.row() for member in memory.members],
        "ledger": memory.ledger,
        "live": [[epoch, list(tickets)] for epoch, tickets in memory.live.items()],
        "slow": _named(memory.slow),
        "fast": _named(memory.fast),
        "fast_raw": _named(memory.fast_raw),
        "steps": memory.steps,
        "row": memory.row,
    }


def write_with(memory: Remembered, members: str, ledger: str) -> str:
    """The same as JSON text, with members and account that are text already in the place of its own."""
    rest = write(memory)
    del rest["members"], rest["ledger"]
    return with_texts(rest, {"members": members, "ledger": ledger})


def read(document: Any) -> Remembered:
    """From JSON values; raises one of :data:`UNREADABLE`."""
    memory = Remembered(
        name_of(document["name"]),
        Framing(document["framing"]),
        seconds(document["wall"]),
        tuple(kept_of_row(*listed(row)) for row in listed(document["members"])),
        document["ledger"],
        {
            whole(epoch, 0, U32): [whole(each) for each in tickets]
            for epoch, tickets in listed(document["live"])
        },
        _reasons(document["slow"]),
        _reasons(document["fast"]),
        _reasons(document["fast_raw"]),
        whole(document.get("steps", 0)),
        row_in(document),
    )
    _check_ledger(memory.ledger)
    return memory


def instance_in(broker: Mapping[str, Any]) -> int | None:
    """The number of the lives that a stored state belongs to, if it says one."""
    try:
        return whole(broker.get("instance"), 1, U32)
    except ValueError:
        return None


def return_key_in(broker: Mapping[str, Any]) -> bytes | None:
    """What sealed the return addresses of the former life, if their time can be told still."""
    if not same_start(broker):
        return None
    try:
        key = bytes.fromhex(name_of(broker.get("return_key")))
    except ValueError:
        return None
    return key if len(key) == KEY_LEN else None


def data_port_in(broker: Mapping[str, Any]) -> int | None:
    """Where the former life's events came from, if that is known."""
    port = broker.get("data_port")
    return port if type(port) is int else None


def alive_in(broker: Mapping[str, Any]) -> float:
    """When the former life wrote last, by the wall clock; 0 where it does not say."""
    try:
        return seconds(broker.get("wall"))
    except ValueError:
        return 0.0


def promised_in(broker: Mapping[str, Any]) -> int:
    """The highest epoch that a start may have given, of whatever topic, that never came to be a life."""
    try:
        return whole(broker.get(PROMISED, 0), 0, U32)
    except ValueError:
        return 0


def name_in(document: Any) -> str | None:
    """The name of a topic in what is stored of it, if it says one."""
    try:
        return name_of(document["name"])
    except UNREADABLE:
        return None


def row_in(document: Any) -> int | None:
    """The row of a topic in what is stored of it, if it says one; raises one of :data:`UNREADABLE`."""
    row = document.get("row")
    return None if row is None else whole(row, 0, TOPIC_MAX)


def drains_in(broker: Mapping[str, Any], wall: float) -> Iterator[tuple[Holder, list[int], float]]:
    """Who drained, of which topics, and the seconds left; ``wall`` is the time now. Nonsense is left out."""
    try:
        passed = max(0.0, wall - seconds(broker.get("wall")))
        rows = listed(broker["leaving"])
    except UNREADABLE:
        return
    for row in rows:
        try:
            ip, port, client, topics, left = row
            holder = Holder(address_of(ip), port_of(port), whole(client))
            found = holder, wholes(topics), seconds(left) - passed
        except UNREADABLE:
            continue
        yield found


def kept_out_in(broker: Mapping[str, Any]) -> Iterator[tuple[Place, float | None, str]]:
    """Who is kept out, until when by the wall clock, and why. Nonsense is left out."""
    rows = broker.get("kept_out")
    for row in rows if type(rows) is list else ():
        try:
            topic, group, ip, port, until, *why = row
            place = Place(name_of(topic), name_of(group), address_of(ip), port_of(port))
            unheard = why == [Out.UNHEARD]
            found = place, None if until is None else seconds(until), Out.UNHEARD if unheard else Out.KEPT_OUT
        except UNREADABLE:
            continue
        yield found


def _check_ledger(stored: Any) -> None:
    """Whether an exported account is one, to the type of every value, and agrees with itself."""
    accounts = _accounts_in(stored) if "groups" in stored else None
    latest = whole(stored["epoch"], 0, U32)
    if len(listed(stored["open"])) > OPEN:
        raise ValueError(f"{len(stored['open'])} epochs cannot be open")
    for epoch, groups in stored["open"]:
        if whole(epoch, 0, U32) > latest or len(listed(groups)) > MOST_GROUPS:
            raise ValueError(f"epoch {epoch} cannot be open")
        distinct(name_of(name) for name, _ in groups)
        for name, members in groups:
            if not listed(members):
                raise ValueError(f"group {name!r} has no members")
            holders = distinct(map(holder_of_row, members))
            if accounts is not None and not holders <= accounts.get(name, set()):
                raise ValueError(f"a holder of group {name!r} has no account")
    distinct(epoch for epoch, _ in stored["open"])


def _accounts_in(stored: Any) -> dict[str, set[Holder]]:
    """Of an account in which something is counted: who has one, by group."""
    whole(stored["drawn"])
    wholes(stored["unequal"])
    flag(stored.get("forgot", False))
    accounts: dict[str, set[Holder]] = {}
    for group in listed(stored["groups"]):
        whole(group.get("unsent", 0))
        whole(group.get("dropped", 0))
        if not 0 <= seconds(group.get("lost_at", 0.0)) <= LATEST:
            raise ValueError(f"{group['lost_at']!r} is no time")
        sums(group.get("repairs", [0, 0]), 2)
        sums(group.get("less", [0, 0]), 2)
        sums(group["sums"], 4)
        distinct(_check_settled(*listed(row)) for row in listed(group["settled"]))
        name = name_of(group["name"])
        if name in accounts:
            raise ValueError(f"there are two groups {name!r}")
        accounts[name] = distinct(_check_account(account) for account in listed(group["accounts"]))
    return accounts


def _check_account(account: Any) -> Holder:
    sums(account["sums"], 5)
    flag(account["left"])
    for pairs in (account["shares"], account["counts"]):
        distinct(whole(epoch, 0, U32) for epoch, count in listed(pairs) if whole(count) >= 0)
    distinct(wholes(account["cut"]))
    if account.get("said") is not None:
        sums(account["said"], 2)
    sums(account.get("drops", [0, 0]), 2)
    sums(account.get("repairs", [0, 0]), 2)
    flag(account.get("unsure", False))
    return holder_of_row(account["holder"])


def _check_settled(holder: Any, received: Any, dropped: Any = 0) -> Holder:
    wholes([received, dropped])
    return holder_of_row(holder)


def kept_of_row(group: Any, ip: Any, port: Any, client: Any, left: Any, source: Any = None) -> Kept:
    """A member as it was stored."""
    # What was written before members had sources has none.
    known = None if source is None else address_of(source)
    return Kept(name_of(group), address_of(ip), port_of(port), whole(client), seconds(left), known)


def _named(counts: Mapping[Reason, int]) -> dict[str, int]:
    return {reason.label: count for reason, count in counts.items() if count}


def _reasons(counts: Mapping[str, int]) -> dict[Reason, int]:
    # A reason that this version does not have any more is left out, with its count.
    return {_BY_LABEL[label]: whole(count) for label, count in counts.items() if label in _BY_LABEL}


_BY_LABEL = {reason.label: reason for reason in Reason}
