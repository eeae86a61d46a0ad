"""The status document: paths with reasons, topics, routes, counters. Built in one place, from facts.

Per topic ``received = fast + slow + sum(refused)`` once nothing is queued: the fast path's events never
reach the slow path's account, and what the fast path passes up is counted where it is decided. ``lost``
stands beside: copies for one group that could not be sent, and what the kernel dropped unread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tempos import FastPathStatus, PathChoice, Reason, Route
from tempos_broker.control import ControlServer, topic_fields
from tempos_broker.membership import GroupState, Registry
from tempos_broker.paths import Tickets
from tempos_broker.slowpath import BESIDE, SlowPathStatus

Counters = Mapping[int, Mapping[Reason, int]]

#: What the fast path decides for good; every other reason of it hands the packet up.
FAST_LOSSES = (Reason.NO_EGRESS,)


@dataclass(slots=True)
class TopicState:
    """A topic's route in force, which path serves it, and the tickets of groups in past epochs."""

    route: Route
    choice: PathChoice | None = None
    past_tickets: dict[str, int] = field(default_factory=dict)


def status_document(
    *,
    broker: dict[str, Any],
    slow: SlowPathStatus,
    slow_counters: Counters,
    fast: FastPathStatus,
    fast_counters: Counters,
    control: ControlServer,
    registry: Registry,
    states: Mapping[int, TopicState],
    tickets: Tickets,
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
                slow_counters.get(topic.id, {}),
                fast_counters.get(topic.id, {}),
                registry,
                tickets,
                now,
            )
            for topic in registry.topics
        ],
        "unattributed": _labelled(_of_no_topic(slow_counters, states)),
    }


def _topic(
    state: TopicState,
    slow: Mapping[Reason, int],
    fast: Mapping[Reason, int],
    registry: Registry,
    tickets: Tickets,
    now: float,
) -> dict[str, Any]:
    topic = state.route.topic
    fast_forwarded, slow_forwarded = fast.get(Reason.FORWARDED, 0), slow.get(Reason.FORWARDED, 0)
    refused: dict[Reason, int] = {reason: fast.get(reason, 0) for reason in FAST_LOSSES}
    refused |= {reason: count for reason, count in slow.items() if reason not in {Reason.FORWARDED, *BESIDE}}
    passed: dict[Reason, int] = {
        reason: count for reason, count in fast.items() if reason not in {Reason.FORWARDED, *FAST_LOSSES}
    }
    index = {group.name: number for number, group in enumerate(state.route.groups)}
    return {
        **topic_fields(topic),
        "policy": topic.policy.value,
        "path": state.choice.path.value if state.choice else None,
        "reason": state.choice.reason if state.choice else "starting",
        "epoch": state.route.epoch,
        "received": fast_forwarded + slow_forwarded + sum(refused.values()),
        "fast": fast_forwarded,
        "slow": slow_forwarded,
        "refused": _labelled(refused),
        "lost": _labelled({reason: slow.get(reason, 0) for reason in BESIDE}),
        "passed": _labelled(passed),
        "groups": [
            _group(group, _drawn(state, group.name, index, tickets), now)
            for group in registry.states(topic.id)
        ],
    }


def _drawn(state: TopicState, name: str, index: Mapping[str, int], tickets: Tickets) -> int:
    """Tickets of a group over all epochs."""
    current = 0
    if name in index:
        current = tickets.read(state.route.topic.id, state.route.epoch, index[name])
    return state.past_tickets.get(name, 0) + current


def _group(group: GroupState, drawn: int, now: float) -> dict[str, Any]:
    return {
        "name": group.name,
        "tickets": drawn,
        "departed_delivered": group.departed,
        "members": [
            {
                "ip": entry.member.ip,
                "port": entry.member.port,
                "static": entry.expires is None,
                "lease_s": None if entry.expires is None else round(entry.expires - now, 1),
                "delivered": entry.delivered,
            }
            for entry in group.members.values()
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
