"""What is right for a case in a mode: which path may serve, what must arrive, and that all accounts agree.

No loss is silent: what was sent is what arrived, what the member missed, and what was lost before the broker.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence

from networks.network import Dropped
from networks.play import EVENTS, Heard, Played
from networks.row import Row
from tempos_bench.measure.broker import GroupStatus, TopicStatus

#: Of what comes by the fast path: a checksum that cannot be told for one thing or another goes up.
_MOSTLY = 0.9
#: What a topic on the fast path says of the interfaces whose events no program sees.
_UNSEEN = "what comes in by these takes the slow path: "


class Right(enum.Enum):
    """What must come of the events."""

    ALL = "every event arrives, and nobody says otherwise"
    ONCE = "every event arrives, and not as two though it comes by two links"
    TOLD = "what does not arrive is told: by the member and in the ledger, to the same number"
    NONE = "none is taken: they are not for this broker"
    WAITS = "the broker waits for an address, and says what may be the matter"


_NOTHING = GroupStatus("", 0, 0, 0, 0, 0, 0)


def judge(row: Row, played: Played, right: Right, paths: Sequence[str], *, blind: bool = False) -> None:
    """Fill in the row; raises AssertionError with all that is wrong.

    ``blind``: the publisher cannot ask the broker, so nobody knows when it began.
    """
    status = played.status
    row.sent = EVENTS
    row.arrived = min(len(set(heard.numbers)) for heard in played.heard)
    row.path, row.reason = _carried(status), _why(played)
    row.ledger = "; ".join(filter(None, (_ledger(status), _dropped(played.dropped))))
    row.client = "; ".join(filter(None, map(_told, played.heard)))
    # A group that got nothing is in no account once its member has left.
    groups = status.groups or [_NOTHING] * (0 if status.received else len(played.heard))
    wrong = [
        *(fault for heard, group in zip(played.heard, groups, strict=True)
          for fault in (*_member_faults(heard, group, status), *_losses_before(heard, status, blind=blind))),
        *_topic_faults(row, played, right, paths),
        *_queue_faults(played),
    ]  # fmt: skip
    row.fault = "; ".join(wrong)
    row.verdict = "wrong" if wrong else "right"
    assert not wrong, f"{row.fault}\n{row}"


def judge_waiting(row: Row, said: str, pattern: str) -> None:
    """Fill in the row of a broker that had to wait; raises AssertionError if it did not say what for."""
    waits = re.search(r"^.*?(address \S+ is not here.*)", said, re.M)
    row.reason = waits[1] if waits else ""
    row.path, row.ledger = "waits" if waits else "started", ""
    row.fault = "" if re.search(pattern, row.reason) else f"nothing about {pattern} in what the broker says"
    row.verdict = "wrong" if row.fault else "right"
    assert not row.fault, f"{row.fault}: {said}"


def _carried(status: TopicStatus) -> str:
    if status.fast and status.slow:
        return f"fast {status.fast}, slow {status.slow}"
    return "fast" if status.fast else "slow" if status.slow else "none"


def _why(played: Played) -> str:
    """Why this path, with what the programs left to the other one where they did so with most."""
    most = max(played.passed, key=lambda reason: played.passed[reason], default="")
    if played.path != "fast" or played.passed.get(most, 0) < _MOSTLY * EVENTS:
        return played.reason
    return f"{played.reason}; left to the slow path: {played.passed[most]} {most}"


def _ledger(status: TopicStatus) -> str:
    if not status.closed:
        return f"does not balance: {', '.join(status.problems)}"
    lost = sum(group.lost for group in status.groups)
    refused = ", ".join(f"{count} refused ({reason})" for reason, count in status.refused.items())
    told = f"{lost} lost" if lost else "all delivered" if status.received else "nothing received"
    before = status.before
    least, most = before.at_least, before.at_most
    if status.received and (least or most):
        told += f", {least if least == most else f'{least} to {most}'} lost before the broker"
    return ", ".join(filter(None, (told, refused)))


def _dropped(dropped: Dropped | None) -> str:
    if dropped is None or not (dropped.packets or dropped.events):
        return ""
    counted = ", ".join(f"{kind} dropped {count} packets" for kind, count in dropped.packets.items())
    return f"{counted or 'no queue dropped any'} with {dropped.events} events"


def _told(heard: Heard) -> str:
    stats = heard.stats
    counts = {"missed": stats.missed, "late": stats.late, "duplicates": stats.duplicates,
              "malformed": sum(stats.malformed.values()), "queue full": stats.queue_full,
              "overruns": stats.overruns}  # fmt: skip
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _member_faults(heard: Heard, group: GroupStatus, status: TopicStatus) -> list[str]:
    """Where the accounts of a member, of its group and of the broker differ."""
    faults = []
    if heard.broken:
        faults.append(f"{heard.broken} events arrived damaged")
    if not set(heard.numbers) <= set(range(EVENTS)):
        faults.append("events arrived that nobody sent")
    if heard.drained is None:
        return [*faults, "the broker did not answer the drain"]
    told = {
        "tickets": (group.tickets, heard.drained.ticketed, status.received - sum(status.refused.values())),
        "delivered": (group.delivered, heard.drained.delivered, heard.deliveries),
        "lost": (group.lost, heard.drained.lost, heard.stats.missed),
    }
    for what, counts in told.items():
        if len(set(counts)) > 1:
            faults.append(f"{what}: ledger {counts[0]}, drain {counts[1]}, seen {counts[2]}")
    if group.unconfirmed or group.unknown:
        faults.append(f"{group.unconfirmed} unconfirmed and {group.unknown} unknown after the drain")
    return faults


def _losses_before(heard: Heard, status: TopicStatus, *, blind: bool) -> list[str]:
    """Where ledger and member do not say, or say wrongly, what was lost before the broker."""
    if not status.received:
        # Nobody has ever heard of the publisher.
        return []
    missed = heard.stats.missed
    lost = EVENTS - len(set(heard.numbers)) - heard.broken - missed
    before = status.before
    bounds = [("ledger", before.at_least, before.at_most)]
    bounds += [("member", each.at_least, each.at_most) for each in heard.publishers]
    faults = [
        f"{lost} were lost before the broker, {who}: {least} to {most}"
        for who, least, most in bounds
        if lost < least or (most is not None and lost > most)
    ]
    if blind:
        return faults
    if before.sent != EVENTS:
        faults.append(f"{EVENTS} were sent, ledger: {before.sent}")
    if not before.settled:
        faults.append("the ledger does not come to the publisher's last word")
    # Where deliveries are missing as well, nobody can tell which of the two an event was.
    if not missed and not before.at_least == before.at_most == lost:
        faults.append(f"ledger: {before.at_least} to {before.at_most} lost before the broker, not {lost}")
    return faults


def _told_slow(played: Played) -> bool:
    """Whether a topic on the fast path says why its events take the slow one: so do its programs' counts."""
    return _UNSEEN in played.reason or sum(played.passed.values()) >= _MOSTLY * played.status.slow


def _queue_faults(played: Played) -> list[str]:
    """Where what was lost behind the broker is not what the queues on its way out dropped."""
    if played.dropped is None:
        return []
    missed = sum(heard.stats.missed for heard in played.heard)
    events = played.dropped.events
    faults = [] if missed == events else [f"{missed} missed, and the queues dropped {events}"]
    if events and not played.dropped.packets:
        faults.append(f"{events} events came through no queue, and none says that it dropped any")
    return faults


def _topic_faults(row: Row, played: Played, right: Right, paths: Sequence[str]) -> list[str]:
    status = played.status
    faults = [] if status.closed else ["the ledger does not balance"]
    if right is Right.NONE:
        if row.arrived or status.received:
            faults.append(f"{status.received} were received and {row.arrived} arrived, of events for others")
        return faults
    if right in (Right.ALL, Right.ONCE) and row.arrived != EVENTS:
        faults.append(f"{row.arrived} of {EVENTS} arrived")
    if right is Right.ONCE and status.received != EVENTS:
        faults.append(f"{status.received} were received, of {EVENTS} events")
    if right in (Right.ALL, Right.ONCE) and any(heard.stats.missed for heard in played.heard):
        faults.append("a member says that it missed some")
    path = "fast" if status.fast > _MOSTLY * status.received else "slow"
    if path not in paths:
        faults.append(f"carried by the {path} path and not by the {' or '.join(paths)} one: {row.reason}")
    if path == "slow" and row.mode != "off" and not row.reason:
        faults.append("the slow path, and no reason")
    if path == "slow" and played.path == "fast" and not _told_slow(played):
        faults.append(f"the slow path, of a topic on the fast one, which does not say why: {row.reason}")
    return faults
