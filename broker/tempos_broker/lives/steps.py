"""What a swap changes of a topic, as it is stored beside the topic's document, and taken up again.

Values in, values out. A step tells what differs from what was stored before it: an epoch that is opened, with
the holders that its groups lose and gain, members that went, came, or get their events from another address,
and epochs that are closed with their final tickets. So a step is as large as the change, however many members
the topic has. What is read here was written by somebody else: whatever makes no sense raises one of
:data:`tempos_broker.lives.memory.UNREADABLE`, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from tempos._slots import MOST_GROUPS
from tempos_broker.account.accounts import Holder
from tempos_broker.account.ledger import Ledger
from tempos_broker.lives.checks import epoch_of, holder_of_row, listed, name_of, port_of, wholes
from tempos_broker.lives.memory import OPEN, Kept, Remembered, kept_of_row

Groups: TypeAlias = Sequence[tuple[str, Sequence[Holder]]]
Endpoint: TypeAlias = tuple[str, int]


@dataclass(slots=True)
class Known:
    """A topic as the store has it: ``number`` of its last step, ``groups`` of its latest epoch.

    ``members`` with a lease: the client, and the address of ours that it asked; of the registry's ``version``
    of the topic. ``closed`` is not stored yet: epochs with their tickets and copies that could not be sent.
    """

    number: int
    epoch: int
    groups: Groups
    members: Mapping[Endpoint, tuple[int, str | None]]
    version: int = -1
    closed: list[tuple[int, Sequence[int], Sequence[int]]] = field(default_factory=list)


def difference(old: Groups, new: Groups) -> list[list[Any]]:
    """What makes ``new`` of ``old``, as JSON values: of each group its name, who is gone, who came."""
    known = [len(holders) for _, holders in old] + [0] * (len(new) - len(old))
    places = list(zip(new, known, strict=False))
    if [(name, holders[:count]) for (name, holders), count in places[: len(old)]] == list(old):
        # Somebody came, and all others are where they were.
        return [[name, [], list(map(list, holders[count:]))]
                for (name, holders), count in places if len(holders) > count]  # fmt: skip
    before, after = dict(old), dict(new)
    rows = []
    for name, holders in old:
        now = after.get(name, ())
        if list(now) != list(holders):
            rows.append(_changed(name, holders, now))
    rows += [_changed(name, (), holders) for name, holders in new if name not in before]
    if applied(old, rows) != [(name, tuple(holders)) for name, holders in new]:
        # The groups stand in another order now, which is rare: all anew.
        return [*(_changed(name, holders, ()) for name, holders in old),
                *(_changed(name, (), holders) for name, holders in new)]  # fmt: skip
    return rows


def _changed(name: str, old: Sequence[Holder], new: Sequence[Holder]) -> list[Any]:
    now, before = set(new), set(old)
    stay = [holder for holder in old if holder in now]
    come = [holder for holder in new if holder not in before]
    if [*stay, *come] != list(new):
        return [name, list(map(list, old)), list(map(list, new))]
    gone = [list(holder) for holder in old if holder not in now]
    return [name, gone, list(map(list, come))]


def applied(old: Groups, rows: Iterable[Sequence[Any]]) -> list[tuple[str, tuple[Holder, ...]]]:
    """The groups after such a difference."""
    groups = {name: list(holders) for name, holders in old}
    for name, gone, come in rows:
        holders = groups.setdefault(name_of(name), [])
        for row in listed(gone):
            holders.remove(holder_of_row(row))
        holders += map(holder_of_row, listed(come))
        if len(set(holders)) != len(holders):
            raise ValueError(f"a holder is twice in group {name!r}")
        if not holders:
            del groups[name]
    if len(groups) > MOST_GROUPS:
        raise ValueError(f"{len(groups)} groups are too many")
    return [(name, tuple(holders)) for name, holders in groups.items()]


def step_document(known: Known, now: Known, come: Iterable[Kept]) -> dict[str, Any]:
    """What differs ``now`` from what the store knows, as JSON values; ``come``: members not known so."""
    document: dict[str, Any] = {}
    if now.epoch != known.epoch:
        document["opened"] = [now.epoch, difference(known.groups, now.groups)]
    if gone := known.members.keys() - now.members.keys():
        document["gone"] = [list(each) for each in gone]
    if rows := [each.row() for each in come]:
        document["come"] = rows
    if known.closed:
        document["closed"] = [[epoch, list(drawn), list(unsent)] for epoch, drawn, unsent in known.closed]
    return document


def go_on(
    memory: Remembered, ledger: Ledger, topic: int, steps: Collection[tuple[int, Any]], now: float
) -> Remembered:
    """Take the steps since the document that ``memory`` and the restored account are of."""
    if not steps and len(memory.members) < 2:
        return memory
    members = {(each.ip, each.port): each for each in memory.members}
    expected = memory.steps
    for number, step in steps:
        if number <= memory.steps:
            continue
        expected += 1
        if number != expected:
            raise ValueError(f"step {expected} is missing before step {number}")
        for ip, port in listed(step.get("gone", [])):
            members.pop((ip, port_of(port)), None)
        for row in listed(step.get("come", [])):
            kept = kept_of_row(*listed(row))
            endpoint = (kept.ip, kept.port)
            known = members.get(endpoint)
            if known is None or (known.group, known.client) != (kept.group, kept.client):
                members.pop(endpoint, None)
            members[endpoint] = kept
        for epoch, tickets, unsent in listed(step.get("closed", [])):
            ledger.closed(topic, epoch_of(epoch), wholes(tickets), wholes(unsent))
        if (opened := step.get("opened")) is not None:
            _open(ledger, topic, *listed(opened), now=now)
    return replace(memory, members=_as_in_route(members, ledger, topic), steps=expected)


def _as_in_route(members: Mapping[Endpoint, Kept], ledger: Ledger, topic: int) -> tuple[Kept, ...]:
    """In the order of the latest route, and then as they came; so the next route is the same one."""
    epoch = ledger.epoch(topic)
    groups = ledger.route(topic, epoch) if epoch in ledger.open_epochs(topic) else []
    holders = (holder for _, each in groups for holder in each)
    places = {(holder.ip, holder.port): place for place, holder in enumerate(holders)}
    ordered = sorted(members.values(), key=lambda each: places.get((each.ip, each.port), len(places)))
    return tuple(ordered)


def _open(ledger: Ledger, topic: int, epoch: Any, rows: Any, *, now: float) -> None:
    latest = ledger.epoch(topic)
    if epoch_of(epoch) <= latest or len(ledger.open_epochs(topic)) >= OPEN:
        raise ValueError(f"epoch {epoch} cannot be opened after {latest}")
    before = ledger.route(topic, latest) if latest in ledger.open_epochs(topic) else []
    ledger.opened(topic, epoch, applied(before, listed(rows)), now)
