"""What is written of a topic into the store, and what can be taken up again from there.

Values in, values out: no I/O, no clock. Leases are stored as seconds that remain at a time of the wall
clock, because the monotonic one means nothing to another life. What cannot be understood raises
:class:`ValueError`, whatever it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tempos import Framing, Reason, Topic
from tempos_broker.counts import Counters


@dataclass(frozen=True, slots=True)
class Kept:
    """A member with a lease. ``remaining``: seconds of it that were left at the time of writing."""

    group: str
    ip: str
    port: int
    client: int
    remaining: float


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
        "members": [[m.group, m.ip, m.port, m.client, m.remaining] for m in memory.members],
        "ledger": memory.ledger,
        "live": [[epoch, list(tickets)] for epoch, tickets in memory.live.items()],
        "slow": _named(memory.slow),
        "fast": _named(memory.fast),
        "fast_raw": _named(memory.fast_raw),
    }


def read(document: Mapping[str, Any]) -> Remembered:
    """From JSON values; raises :class:`ValueError`."""
    try:
        return Remembered(
            str(document["name"]),
            Framing(document["framing"]),
            float(document["wall"]),
            tuple(
                Kept(str(group), str(ip), int(port), int(client), float(remaining))
                for group, ip, port, client, remaining in document["members"]
            ),
            document["ledger"],
            {int(epoch): [int(count) for count in tickets] for epoch, tickets in document["live"]},
            _reasons(document["slow"]),
            _reasons(document["fast"]),
            _reasons(document["fast_raw"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{error!r}") from error


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
    return {_BY_LABEL[label]: int(count) for label, count in counts.items() if label in _BY_LABEL}


_BY_LABEL = {reason.label: reason for reason in Reason}
