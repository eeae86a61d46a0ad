"""The status document: paths with reasons, topics, routes, counters. Built in one place, from facts.

Per topic ``received = fast + slow + sum(refused)`` once nothing is queued: the fast path's events never
reach the slow path's account, and what the fast path passes up is counted where it is decided. ``lost``
stands beside: copies for one group that could not be sent, and what the kernel dropped unread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tempos import FastPathStatus, PathChoice, Reason, Route
from tempos_broker.control import ControlServer, topic_fields
from tempos_broker.ledger import GroupRow, Holder, Ledger, TopicLedger
from tempos_broker.membership import Registry
from tempos_broker.slowpath import BESIDE, SlowPathStatus

Counters = Mapping[int, Mapping[Reason, int]]

#: What the fast path decides for good; every other reason of it hands the packet up.
FAST_LOSSES = (Reason.NO_EGRESS,)


@dataclass(slots=True)
class TopicState:
    """A topic's route in force, the version of its membership, and which path serves it."""

    route: Route
    version: int = 0
    choice: PathChoice | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tickets drawn so far from the groups of a topic's route; ``slack`` events passed while counting."""

    tickets: Sequence[int]
    slack: int


def status_document(
    *,
    broker: dict[str, Any],
    slow: SlowPathStatus,
    slow_counters: Counters,
    fast: FastPathStatus,
    fast_counters: Counters,
    control: ControlServer,
    registry: Registry,
    ledger: Ledger,
    states: Mapping[int, TopicState],
    drawn: Mapping[int, Drawn],
    now: float,
) -> dict[str, Any]:
    """The whole document, as JSON values."""
    return {
        "broker": broker,
        "paths": {
            "slow": {
                "io": slow.io,
                "reason": slow.reason,
                "listen": list(slow.listen),
                "receive_buffer": slow.receive_buffer,
                "received": slow.received,
                "queued": slow.queued,
            },
            "fast": {
                "mode": fast.mode,
                "reason": fast.reason,
                "interfaces": [
                    {"name": entry.name, "mode": entry.mode, "reason": entry.reason}
                    for entry in fast.interfaces
                ],
                "passed": _labelled(_of_no_topic(fast_counters, states)),
            },
        },
        "control": {"served": dict(control.served), "refused": dict(control.refused)},
        "topics": [
            _topic(
                states[topic.id],
                _account(
                    ledger,
                    topic.id,
                    slow_counters.get(topic.id, {}),
                    fast_counters.get(topic.id, {}),
                    drawn[topic.id],
                ),
                slow_counters.get(topic.id, {}),
                fast_counters.get(topic.id, {}),
                registry,
                now,
            )
            for topic in registry.topics
        ],
        "unattributed": _labelled(_of_no_topic(slow_counters, states)),
    }


def _account(
    ledger: Ledger, topic: int, slow: Mapping[Reason, int], fast: Mapping[Reason, int], drawn: Drawn
) -> TopicLedger:
    refused: dict[Reason, int] = {reason: fast.get(reason, 0) for reason in FAST_LOSSES}
    refused |= {reason: count for reason, count in slow.items() if reason not in {Reason.FORWARDED, *BESIDE}}
    forwarded = fast.get(Reason.FORWARDED, 0), slow.get(Reason.FORWARDED, 0)
    return ledger.topic(
        topic,
        live=drawn.tickets,
        received=sum(forwarded) + sum(refused.values()),
        fast=forwarded[0],
        slow=forwarded[1],
        refused=refused,
        slack=drawn.slack,
    )


def _topic(
    state: TopicState,
    account: TopicLedger,
    slow: Mapping[Reason, int],
    fast: Mapping[Reason, int],
    registry: Registry,
    now: float,
) -> dict[str, Any]:
    topic = state.route.topic
    passed = {
        reason: count for reason, count in fast.items() if reason not in {Reason.FORWARDED, *FAST_LOSSES}
    }
    leases = {
        (group.name, entry.holder): entry.expires
        for group in registry.states(topic.id)
        for entry in group.members.values()
    }
    return {
        **topic_fields(topic),
        "policy": topic.policy.value,
        "path": state.choice.path.value if state.choice else None,
        "reason": state.choice.reason if state.choice else "starting",
        "epoch": state.route.epoch,
        "received": account.received,
        "fast": account.fast,
        "slow": account.slow,
        "refused": _labelled(account.refused),
        "lost": _labelled({reason: slow.get(reason, 0) for reason in BESIDE}),
        "passed": _labelled(passed),
        "balanced": account.balanced,
        "problems": list(account.problems),
        "groups": [_group(group, leases, now) for group in account.groups],
    }


def _group(group: GroupRow, leases: Mapping[tuple[str, Holder], float | None], now: float) -> dict[str, Any]:
    def lease(holder: Holder) -> float | None:
        expires = leases.get((group.name, holder))
        return None if expires is None else round(expires - now, 1)

    return {
        "name": group.name,
        "tickets": group.tickets,
        "delivered": group.delivered,
        "unconfirmed": group.unconfirmed,
        "lost": group.lost,
        "unknown": group.unknown,
        "members": [
            {
                "ip": row.holder.ip,
                "port": row.holder.port,
                "static": row.holder.client is None,
                "lease_s": lease(row.holder),
                "ticketed": row.ticketed,
                "delivered": row.delivered,
            }
            for row in group.members
        ],
    }


def _of_no_topic(counters: Counters, states: Mapping[int, TopicState]) -> Mapping[Reason, int]:
    """What was counted under no topic, or under one that is not configured."""
    total: Counter[Reason] = Counter()
    for topic, counts in counters.items():
        if topic not in states:
            total.update(counts)
    return total


def _labelled(counts: Mapping[Reason, int]) -> dict[str, int]:
    return {reason.label: count for reason, count in counts.items() if count}
