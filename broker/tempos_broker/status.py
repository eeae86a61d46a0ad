"""The status document: paths with reasons, topics, routes, counters. Built in one place, from facts.

Per topic ``received = fast + slow + sum(refused)`` once nothing is queued: the fast path's events never
reach the slow path's account, and what the fast path passes up is counted where it is decided. ``lost``
stands beside: copies for one group that could not be sent, and what the kernel dropped unread.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from tempos import FastPathStatus, GroupOptions, Reason
from tempos.histogram import Latency
from tempos.model import Volume
from tempos_broker import privileges
from tempos_broker.account.accounts import GroupRow, Holder, MemberRow
from tempos_broker.account.consumers import Consumers, Load
from tempos_broker.account.ledger import Ledger, TopicLedger
from tempos_broker.account.publishers import PublishersAccount
from tempos_broker.addresses import Towards
from tempos_broker.config.model import Origin
from tempos_broker.control.decisions import limit_fields, topic_fields
from tempos_broker.control.server import ControlServer
from tempos_broker.counts import Counted, Counters
from tempos_broker.latency import latency_document
from tempos_broker.members.departures import KeptOut
from tempos_broker.members.known import GroupState, Lease
from tempos_broker.membership import Registry
from tempos_broker.slowpath import BESIDE, SlowPathStatus
from tempos_broker.slowpath.measures import Measured
from tempos_broker.state import TopicState

#: Frames lost behind the redirect, by interface and the name of the error. No topic can be told any more:
#: a member of `event` topics sees them as missed, the ledger as what was never confirmed.
Drops = Mapping[str, Mapping[str, int]]

#: What becomes of groups and members that a document tells of: a list, or what makes it as somebody reads on.
Listed = Callable[[Iterator[Any]], Any]

#: What the fast path decides for good; every other reason of it hands the packet up.
FAST_LOSSES = (Reason.NO_EGRESS, Reason.OVER_RATE, Reason.KEEP_ALIVE, Reason.REPEATED)


def status_head(
    *,
    broker: dict[str, Any],
    slow: SlowPathStatus,
    worker: Mapping[str, Any],
    fast: FastPathStatus,
    control: ControlServer,
    api_refused: Mapping[str, int],
    registry: Registry,
    states: Mapping[int, TopicState],
    slow_counters: Counters,
    fast_counters: Counters,
    drops: Drops,
    now: float,
) -> dict[str, Any]:
    """All but its topics, as JSON values. ``worker``: the process for SQ, or why there is none."""
    return {
        "broker": {**broker, "privileges": privileges.describe()},
        "paths": {
            "slow": {
                "adapter": slow.adapter,
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
                "kernel": {"release": platform.release(), "lacks": list(fast.lacks)},
                "bypassed": list(fast.bypassed),
                "following": fast.following,
                "passed": labelled(_passed(of_no_topic(fast_counters, states))),
                "drops": as_values(drops),
            },
        },
        "quality": {**_quality(slow), "worker": dict(worker)},
        "control": {
            "served": dict(control.served),
            "refused": dict(control.refused),
            "replies": dict(control.replies),
            "api_refused": dict(api_refused),
        },
        "kept_out": [kept_out_fields(kept, now) for kept in registry.departures.all_kept_out(now)],
        "slow_consumers": _slow_consumers(registry, states, control.reports.consumers, now),
        "unattributed": labelled(unattributed(slow_counters, fast_counters, states)),
    }


def path_fields(state: TopicState) -> dict[str, Any]:
    """Which path serves a topic, and why."""
    return {
        "policy": state.policy.value,
        "path": state.choice.path.value if state.choice else None,
        "reason": state.choice.reason if state.choice else "starting",
    }


def route_document(state: TopicState, listed: Listed = list) -> dict[str, Any]:
    """The route in force of a topic."""
    route = state.route
    groups = listed({"name": each.name, "members": listed(map(str, each.members))} for each in route.groups)
    path = state.choice.path.value if state.choice else None
    return {"topic": route.topic.name, "epoch": route.epoch, "path": path, "groups": groups}


def kept_out_fields(kept: KeptOut, now: float) -> dict[str, Any]:
    """Who is kept out, why, and for how much longer; None: until let in."""
    return {
        **kept.place._asdict(),
        "why": kept.why,
        "seconds": None if kept.until is None else round(kept.until - now, 1),
        "until": kept.when,
    }


def _quality(slow: SlowPathStatus) -> dict[str, Any]:
    """What keeps SQ from BQ, as it is in force."""
    return {
        "sockets": slow.sockets,
        "reason": slow.sockets_reason,
        "share_bq": slow.share_bq,
        "classes": {
            quality.value: {
                "queued": each.queued,
                "queue": each.queue,
                "overruns": each.overruns,
                "dscp": each.marking.dscp,
                "so_priority": each.marking.priority,
                "reason": each.marking_reason,
            }
            for quality, each in slow.classes.items()
        },
    }


def _account(ledger: Ledger, topic: int, counted: Counted) -> TopicLedger:
    slow, fast, drawn = counted.slow.get(topic, {}), counted.fast.get(topic, {}), counted.drawn[topic]
    # Both paths refuse what is over a topic's rate.
    refused = Counter({reason: fast.get(reason, 0) for reason in FAST_LOSSES})
    refused.update(
        {reason: n for reason, n in slow.items() if reason not in {Reason.FORWARDED, Reason.REPLY, *BESIDE}}
    )
    forwarded = fast.get(Reason.FORWARDED, 0), slow.get(Reason.FORWARDED, 0)
    return ledger.topic(
        topic,
        live=drawn.tickets,
        unsent=drawn.unsent,
        received=sum(forwarded) + sum(refused.values()),
        fast=forwarded[0],
        slow=forwarded[1],
        refused=refused,
        slack=drawn.slack,
    )


def topic_document(
    state: TopicState,
    *,
    registry: Registry,
    ledger: Ledger,
    consumers: Consumers,
    counted: Counted,
    latency: Latency | None,
    volume: Volume,
    measured: Measured | None,
    origin: Origin,
    durable: bool,
    now: float,
    left_out: Callable[[int, Towards], str],
    journal: dict[str, Any] | None = None,
    listed: Listed = list,
) -> dict[str, Any]:
    """One topic, as JSON values. ``durable``: the broker keeps what is made at run time.

    ``left_out``: why nothing is sent to a member there, by its port; empty where it is. ``journal``: what it
    has of one.
    """
    topic = state.route.topic
    account = _account(ledger, topic.id, counted)
    slow, fast = counted.slow.get(topic.id, {}), counted.fast.get(topic.id, {})
    passed = {
        reason: count for reason, count in fast.items() if reason not in {Reason.FORWARDED, *FAST_LOSSES}
    }
    present = {group.name: group for group in registry.states(topic.id)}
    sources = {
        (member.ip, member.port): member.source for group in state.route.groups for member in group.members
    }
    return {
        **topic_fields(topic),
        **limit_fields(topic),
        "sources": list(topic.sources),
        "ports": list(topic.ports),
        "pick": topic.pick.value,
        "prefer": topic.prefer.value,
        "passed_over": registry.passed_over(topic.id),
        "group_options": [_options(each) for each in topic.groups],
        "fanout": topic.fanout.value,
        "unheard": topic.unheard.value,
        "journal": journal,
        "retain": topic.retain,
        "repair": topic.is_repaired,
        "redeliver": topic.redeliver,
        "origin": origin.value,
        "durable": durable or origin is Origin.FILE,
        **path_fields(state),
        "moves": state.moves,
        "epoch": state.route.epoch,
        "received": account.received,
        "fast": account.fast,
        "slow": account.slow,
        "refused": labelled(account.refused),
        "replies": slow.get(Reason.REPLY, 0),
        "lost": labelled({reason: slow.get(reason, 0) for reason in BESIDE}),
        "passed": labelled(passed),
        "balanced": account.balanced,
        "problems": list(account.problems),
        "bytes": {
            "fast": {"received": sum(volume), "forwarded": volume.forwarded},
            "slow": {
                "received": 0 if measured is None else measured.arrived,
                "forwarded": 0 if measured is None else measured.forwarded,
            },
        },
        "latency": latency_document(latency, measured),
        "lost_before": _lost_before(account.publishers),
        "groups": listed(
            _group(group, consumers, present.get(group.name), sources, now, left_out, listed)
            for group in account.groups
        ),
    }


def topic_ledger_document(
    state: TopicState, ledger: Ledger, consumers: Consumers, counted: Counted, listed: Listed = list
) -> dict[str, Any]:
    """The account of one topic, as JSON values."""
    topic = state.route.topic
    account = _account(ledger, topic.id, counted)
    slow = counted.slow.get(topic.id, {})
    return {
        "id": topic.id,
        "name": topic.name,
        "epoch": state.route.epoch,
        "received": account.received,
        "fast": account.fast,
        "slow": account.slow,
        "refused": labelled(account.refused),
        "replies": slow.get(Reason.REPLY, 0),
        "unsent": labelled({reason: slow.get(reason, 0) for reason in BESIDE}),
        "balanced": account.balanced,
        "problems": list(account.problems),
        "lost_before": _lost_before(account.publishers),
        "publishers": [
            {
                "publisher": row.publisher,
                "ip": row.ip,
                "tells": row.tells,
                "final": row.final,
                "sent": row.sent,
                "datagrams": row.datagrams,
                "received": dict(row.received),
                "at_least": row.at_least,
                "at_most": row.at_most,
                "whole": row.whole,
                "settled": row.settled,
                "repaired": row.repaired,
                "given_up": row.given_up,
            }
            for row in account.publishers.rows
        ],
        "groups": listed(
            {
                **_sums(group),
                "members": listed(
                    {
                        **_endpoint(row.holder),
                        "left": row.left,
                        "ticketed": row.ticketed,
                        "delivered": row.delivered,
                        "dropped": row.dropped,
                        "unconfirmed": row.unconfirmed,
                        "lost": row.lost,
                        "repaired": row.repaired,
                        "given_up": row.given_up,
                        "overruns": _load(consumers.of(row.holder))["overruns"],
                    }
                    for row in group.members
                ),
            }
            for group in account.groups
        ),
    }


def _options(group: GroupOptions) -> dict[str, Any]:
    return {
        "name": group.name,
        "sources": list(group.sources),
        "every": group.every,
        "source": "keep" if group.keep else "own",
        "down_after": group.down_after,
        "probe": group.probe,
        "probe_port": group.probe_port,
    }


def _lost_before(publishers: PublishersAccount) -> dict[str, Any]:
    """What never drew a ticket, over all publishers, in events."""
    return {
        "publishers": len(publishers.rows) + publishers.forgotten,
        "forgotten": publishers.forgotten,
        "unfollowed": publishers.unfollowed,
        "sent": publishers.sent,
        "at_least": publishers.at_least,
        "at_most": publishers.at_most,
        "settled": publishers.settled,
        "repaired": publishers.repaired,
        "given_up": publishers.given_up,
    }


def _sums(group: GroupRow) -> dict[str, Any]:
    """``tickets = delivered + dropped + unconfirmed + lost + unknown + filtered + sampled``.

    ``unsent`` is known to be in the last three, ``repaired`` is in the first two, ``given_up`` in the next;
    ``orphaned = redelivered + pending + lapsed`` are tickets of any kind.
    """
    return {
        "name": group.name,
        "tickets": group.tickets,
        "delivered": group.delivered,
        "dropped": group.dropped,
        "unconfirmed": group.unconfirmed,
        "lost": group.lost,
        "unknown": group.unknown,
        "filtered": group.filtered,
        "sampled": group.sampled,
        "unsent": group.unsent,
        "repaired": group.repaired,
        "given_up": group.given_up,
        **group.orphans._asdict(),
    }


def _when(unix: float) -> str | None:
    return datetime.fromtimestamp(unix, timezone.utc).isoformat(timespec="seconds") if unix else None


def _endpoint(holder: Holder) -> dict[str, Any]:
    return {"ip": holder.ip, "port": holder.port, "static": holder.client is None}


def _slow_consumers(
    registry: Registry, states: Mapping[int, TopicState], consumers: Consumers, now: float
) -> list[dict[str, Any]]:
    """Members that do not keep up, each once with all its topics and groups."""
    rows = []
    for holder, load, reason in consumers.all_slow(now):
        places = registry.places(holder)
        groups = [{"topic": states[topic].route.topic.name, "group": group} for topic, group in places
                  if topic in states]  # fmt: skip
        if groups:
            rows.append({**_endpoint(holder), "reason": reason, **_load(load), "groups": groups})
    return rows


def _load(load: Load | None) -> dict[str, int | None]:
    if load is None:
        return {"waiting": None, "queue": None, "overruns": None}
    return {"waiting": load.waiting, "queue": load.queue, "overruns": load.overruns}


def _group(
    group: GroupRow,
    consumers: Consumers,
    present: GroupState | None,
    sources: Mapping[tuple[str, int], str | None],
    now: float,
    left_out: Callable[[int, Towards], str],
    listed: Listed,
) -> dict[str, Any]:
    def held(holder: Holder) -> Lease | None:
        known = present.members.get((holder.ip, holder.port)) if present is not None else None
        return None if known is None or known.client != holder.client else known.lease

    def lease(holder: Holder) -> float | None:
        known = held(holder)
        return None if known is None or known.home else round(known.expires - now, 1)

    def unheard(holder: Holder) -> int:
        known = held(holder)
        return 0 if known is None else known.progress.lost

    return {
        **_sums(group),
        "lost_at": _when(group.lost_at),
        "members": listed(
            {
                **_endpoint(row.holder),
                "from": sources.get((row.holder.ip, row.holder.port)),
                "lease_s": lease(row.holder),
                "left_out": left_out(
                    row.holder.port, (row.holder.ip, sources.get((row.holder.ip, row.holder.port)))
                ),
                "in_route": (row.holder.ip, row.holder.port) in sources,
                "unheard": unheard(row.holder),
                "ticketed": row.ticketed,
                "delivered": row.delivered,
                "dropped": row.dropped,
                **_load(consumers.of(row.holder)),
            }
            for row in _shown(group, present)
        ),
    }


def _shown(group: GroupRow, present: GroupState | None) -> Iterator[MemberRow]:
    """Members that are there, those included that are in no route for now."""
    places = present.members if present is not None else {}
    told = set()
    for row in group.members:
        place = (row.holder.ip, row.holder.port)
        if not row.left or (place in places and places[place].lease is None):
            told.add(place)
            yield row
    for place, known in places.items():
        if known.lease is None and place not in told:
            yield MemberRow(known.holder, 0, None, None, 0, 0, left=False)


def as_values(drops: Drops) -> dict[str, dict[str, int]]:
    """Only where there are any."""
    return {interface: dict(errors) for interface, errors in drops.items() if errors}


def of_no_topic(counters: Counters, states: Mapping[int, TopicState]) -> Mapping[Reason, int]:
    """What was counted under no topic, or under one that is not configured."""
    total: Counter[Reason] = Counter()
    for topic, counts in counters.items():
        if topic not in states:
            total.update(counts)
    return total


def unattributed(slow: Counters, fast: Counters, states: Mapping[int, TopicState]) -> Mapping[Reason, int]:
    """What either path was sent that is no topic's, and for good."""
    total = Counter(of_no_topic(slow, states))
    total.update({why: n for why, n in of_no_topic(fast, states).items() if why in FAST_LOSSES})
    return total


def _passed(counts: Mapping[Reason, int]) -> Mapping[Reason, int]:
    return {reason: n for reason, n in counts.items() if reason not in FAST_LOSSES}


def labelled(counts: Mapping[Reason, int]) -> dict[str, int]:
    """Counts by the names of their reasons; no zeros."""
    return {reason.label: count for reason, count in counts.items() if count}
