"""What the broker counts, for Prometheus: the status document as numbers, by names that say their unit.

How many series there are is bounded: of the first :data:`TOPICS` topics and :data:`MEMBERS` members all is
told, and of how many it is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from tempos.model import place_name
from tempos_daemon.metrics import Buckets, Family, Kind, Sample, counter, gauge, sample

#: Topics and members of which there are series of their own.
TOPICS, MEMBERS = 2_000, 5_000

INFO = gauge("tempos_broker_info", "1: what broker this is", "version", "name", "instance")
READY = gauge("tempos_broker_ready", "1 if every socket is bound and every topic has a route")
STATE_FAILS = gauge("tempos_state_failing", "1 while the state file cannot be written")
UPTIME = gauge("tempos_broker_uptime_seconds", "since it started")
HOW_MANY = gauge("tempos_topics", "topics there are")
LEFT_OUT = gauge("tempos_series_left_out", "topics and members without series of their own", "what")
SLOW_RECEIVED = counter("tempos_slow_path_received_total", "datagrams that the slow path read")
SLOW_QUEUED = gauge("tempos_slow_path_queued_datagrams", "datagrams that wait in the slow path's queues")
QUEUED = gauge("tempos_queued_datagrams", "of these, those of topics of a class", "class")
OVERRUNS = counter(
    "tempos_socket_overruns_total", "datagrams that found the socket of a class full, and are lost", "class"
)
FAST_ON = gauge("tempos_fast_path_interface", "1: it carries the XDP program", "interface", "mode")
FAST_PASSED = counter("tempos_fast_path_passed_total", "packets of no topic left to the kernel", "reason")
DROPS = counter("tempos_redirect_drops_total", "frames lost behind the redirect", "interface", "error")
CONTROL = counter("tempos_control_requests_total", "control requests that were served", "operation")
CONTROL_REFUSED = counter("tempos_control_refused_total", "control requests that were refused", "reason")
API_REFUSED = counter("tempos_api_refused_total", "requests that the control API turned away", "reason")
NO_TOPIC = counter("tempos_unattributed_total", "datagrams of no topic that is known", "reason")
KEPT_OUT = gauge(
    "tempos_kept_out_members",
    "places that are kept empty, by an operator or because no event reached who was there",
)
FLEET = gauge("tempos_fleet_brokers", "brokers of the fleet that this one knows of", "fleet")
FLEET_AWAY = gauge("tempos_fleet_registry_away", "1 while the fleet's registry is not to be had", "fleet")
FLEET_BEHIND = gauge(
    "tempos_fleet_behind_revisions", "that a broker has to put in force, as this one knows", "fleet", "broker"
)
FLEET_MEMBERS = gauge("tempos_fleet_members", "members that are at home at a broker", "fleet", "broker")
FLEET_REVISION = gauge("tempos_fleet_agreed_revision", "that every broker of the fleet has in force", "fleet")
FLEET_SERVED = gauge("tempos_fleet_served", "members of other brokers that one sends to", "fleet", "broker")
FLEET_LACKS_TOPICS = gauge(
    "tempos_fleet_lacks_topics",
    "run-time topics of the fleet that one does not have as they are",
    "fleet",
    "broker",
)
FLEET_LACKS_CLIENTS = gauge(
    "tempos_fleet_lacks_clients",
    "run-time clients (keys) of the fleet that one does not have as they are",
    "fleet",
    "broker",
)
FLEET_LACKS = gauge("tempos_fleet_lacks", "members of others that one does not send to", "fleet", "broker")
FLEET_LEAVING = gauge("tempos_fleet_leaving", "1 while it is taken out of service", "fleet", "broker")
SLOW_CONSUMERS = gauge("tempos_slow_consumers", "members that do not keep up")

PATH = gauge("tempos_topic_path", "1: the path that serves the topic now", "topic", "class", "policy", "path")
MOVES = counter("tempos_topic_moves_total", "moves from one path to the other since the start", "topic")
EPOCH = gauge("tempos_topic_epoch", "the route in force; grows with every change of members or path", "topic")
RECEIVED = counter("tempos_datagrams_received_total", "datagrams of a topic that came", "topic")
FORWARDED = counter("tempos_datagrams_forwarded_total", "datagrams handed to every group", "topic", "path")
REFUSED = counter("tempos_datagrams_refused_total", "datagrams that went to nobody", "topic", "reason")
LOST = counter("tempos_datagrams_lost_total", "copies for a group that could not be sent", "topic", "reason")
PASSED = counter("tempos_datagrams_passed_total", "left to the slow path by the fast", "topic", "reason")
REPLIES = counter("tempos_replies_total", "replies to requests that were sent on", "topic")
DRIFT = gauge("tempos_ledger_drift", "datagrams that the account does not explain; must be 0", "topic")
BEFORE = gauge("tempos_lost_before_events", "events that are known never to have been ticketed", "topic")
BEFORE_REPAIRED = counter(
    "tempos_lost_before_repaired_total",
    "datagrams that publishers sent again, and that were lacking",
    "topic",
)
BEFORE_GIVEN_UP = gauge(
    "tempos_lost_before_given_up_events", "events that publishers say to ask for no more", "topic"
)
TICKETS = counter("tempos_group_tickets_total", "datagrams that went to a group", "topic", "group")
DELIVERED = counter("tempos_group_delivered_total", "of these, what members told they got", "topic", "group")
DROPPED = counter("tempos_group_dropped_total", "arrived, but not given to the program", "topic", "group")
REPAIRED = counter(
    "tempos_group_repaired_total", "delivered when members asked for what they missed", "topic", "group"
)
GIVEN_UP = gauge(
    "tempos_group_given_up_datagrams", "not delivered, and not asked for any more", "topic", "group"
)
ORPHANED = counter(
    "tempos_group_orphaned_total", "sent to members that are gone, and not known processed", "topic", "group"
)
REDELIVERED = counter(
    "tempos_group_redelivered_total", "of these, processed by other members since", "topic", "group"
)
PENDING = gauge("tempos_group_pending_datagrams", "of these, to be handed to others", "topic", "group")
LAPSED = counter("tempos_group_lapsed_total", "of these, not to be had any more", "topic", "group")
#: No counter: who left may still tell that it had got some.
GROUP_LOST = gauge("tempos_group_lost_datagrams", "not told of by members that have left", "topic", "group")
UNKNOWN = counter("tempos_group_unknown_total", "sent to static members: they tell nothing", "topic", "group")
FILTERED = counter(
    "tempos_group_filtered_total", "of senders that the group takes nothing of", "topic", "group"
)
SAMPLED = counter(
    "tempos_group_sampled_total", "left out, as the group gets one of so many", "topic", "group"
)
UNCONFIRMED = gauge("tempos_group_unconfirmed_datagrams", "not told of yet", "topic", "group")
IN_GROUP = gauge("tempos_group_members", "members of a group", "topic", "group")

_MEMBER = ("topic", "group", "member")
TICKETED = counter("tempos_member_ticketed_total", "datagrams that went to a member", *_MEMBER)
GOT = counter("tempos_member_delivered_total", "of these, what it told to have got", *_MEMBER)
LEASE = gauge("tempos_member_lease_seconds", "until its lease ends", *_MEMBER)
WAITING = gauge("tempos_member_waiting_events", "events that wait for its program", *_MEMBER)

JOURNAL = gauge("tempos_topic_journal_bytes", "memory of its journal; 0: it cannot be had", "topic")
REPLAYS = counter("tempos_topic_replays_total", "members that asked for what was before them", "topic")
REPLAYED = counter("tempos_topic_replayed_total", "events that they were handed for that", "topic")
ASIDE = gauge("tempos_topic_aside_events", "to be handed out again, and copied out of its journal", "topic")

RECEIVED_BYTES = counter(
    "tempos_received_bytes_total", "payload of a topic that came to a path, and stayed there", "topic", "path"
)
FORWARDED_BYTES = counter("tempos_forwarded_bytes_total", "of this, handed to every group", "topic", "path")
SLOW = Family(
    "tempos_slow_path_seconds",
    "from taking an event out of its socket to when the kernel has its last copy",
    ("topic", "class"),
    Kind.HISTOGRAM,
)
PROGRAM = Family("tempos_program_seconds", "time inside the XDP program", ("topic", "class"), Kind.HISTOGRAM)
SINCE_SENT = Family(
    "tempos_since_sent_seconds",
    "from sending an event to when it is forwarded, by two clocks",
    ("topic", "class", "path"),
    Kind.HISTOGRAM,
)
#: Bounds of the histograms in ns: powers of four from 64 ns to 1 s.
BOUNDS = tuple(64 << step for step in range(0, 25, 2))


def samples(head: Mapping[str, Any], topics: Iterable[Mapping[str, Any] | bytes]) -> Iterator[Sample]:
    """All of it; ``head`` and ``topics`` as the status has them: as JSON, or with iterators of members."""
    yield from _of_the_whole(head)
    number = members = left_topics = left_members = 0
    for told in topics:
        number += 1
        if number > TOPICS:
            left_topics += 1
            continue
        topic = json.loads(told) if isinstance(told, bytes) else told
        name = topic["name"]
        yield from _of_topic(topic)
        open_ = _open(topic)
        for group in topic["groups"]:
            open_ += _open_of(group)
            in_group = 0
            for member in group["members"]:
                in_group += 1
                if members + in_group > MEMBERS:
                    left_members += 1
                else:
                    yield from _of_member(name, group["name"], member)
            members += in_group
            for family, key in _OF_GROUP.items():
                yield sample(family, group[key], name, group["name"])
            yield sample(IN_GROUP, in_group, name, group["name"])
        yield sample(DRIFT, open_ or int(not topic["balanced"]), name)
    yield sample(HOW_MANY, number)
    yield sample(LEFT_OUT, left_topics, "topics")
    yield sample(LEFT_OUT, left_members, "members")


def _of_the_whole(head: Mapping[str, Any]) -> Iterator[Sample]:
    broker, slow, fast = head["broker"], head["paths"]["slow"], head["paths"]["fast"]
    yield sample(INFO, 1, broker["version"], broker["name"], broker["instance"])
    yield sample(READY, broker["ready"])
    yield sample(STATE_FAILS, bool(broker["state_trouble"]))
    yield sample(UPTIME, broker["uptime_s"])
    yield sample(SLOW_RECEIVED, slow["received"])
    queued = slow["queued"]
    yield sample(SLOW_QUEUED, sum(queued.values()) if isinstance(queued, Mapping) else queued)
    for quality, told in head["quality"]["classes"].items():
        yield sample(QUEUED, told["queued"], quality)
        yield sample(OVERRUNS, told["overruns"], quality)
    for each in fast["interfaces"]:
        yield sample(FAST_ON, each["mode"] is not None, each["name"], each["mode"])
    yield from _by(FAST_PASSED, fast["passed"])
    for interface, errors in fast["drops"].items():
        yield from _by(DROPS, errors, interface)
    control = head["control"]
    yield from _by(CONTROL, control["served"])
    yield from _by(CONTROL_REFUSED, control["refused"])
    yield from _by(API_REFUSED, control["api_refused"])
    yield from _by(NO_TOPIC, head["unattributed"])
    yield sample(KEPT_OUT, len(head["kept_out"]))
    yield sample(SLOW_CONSUMERS, len(head["slow_consumers"]))
    if (fleet := head.get("fleet")) is not None:
        yield from _of_fleet(fleet)


def _of_fleet(fleet: Mapping[str, Any]) -> Iterator[Sample]:
    name, brokers = fleet["name"], fleet["brokers"]
    yield sample(FLEET, len(brokers), name)
    yield sample(FLEET_AWAY, fleet["registry"] == "away", name)
    newest = max((each["in_force"] for each in brokers), default=0)
    yield sample(FLEET_REVISION, min((each["in_force"] for each in brokers), default=0), name)
    for each in brokers:
        yield sample(FLEET_SERVED, each["serves"], name, each["name"])
        yield sample(FLEET_LACKS, each["lacks"], name, each["name"])
        yield sample(FLEET_LACKS_TOPICS, each["lacks_topics"], name, each["name"])
        yield sample(FLEET_LACKS_CLIENTS, each["lacks_clients"], name, each["name"])
        yield sample(FLEET_LEAVING, each["leaving"] is not None, name, each["name"])
        yield sample(FLEET_BEHIND, newest - each["in_force"], name, each["name"])
        yield sample(FLEET_MEMBERS, each["members"], name, each["name"])


def _of_topic(topic: Mapping[str, Any]) -> Iterator[Sample]:
    name = topic["name"]
    yield sample(PATH, 1, name, topic["class"], topic["policy"], topic["path"] or "none")
    yield sample(MOVES, topic["moves"], name)
    yield sample(EPOCH, topic["epoch"], name)
    yield sample(RECEIVED, topic["received"], name)
    for path in ("fast", "slow"):
        yield sample(FORWARDED, topic[path], name, path)
    for family in (REFUSED, LOST, PASSED):
        yield from _by(family, topic[_KEYS[family]], name)
    yield sample(REPLIES, topic["replies"], name)
    if topic["journal"] is not None:
        yield sample(JOURNAL, topic["journal"]["memory"], name)
        yield sample(REPLAYS, topic["journal"]["replays"], name)
        yield sample(REPLAYED, topic["journal"]["replayed"], name)
        yield sample(ASIDE, topic["journal"]["aside"], name)
    before = topic["lost_before"]
    yield sample(BEFORE, before["at_least"], name)
    if before.get("repaired") or before.get("given_up"):
        yield sample(BEFORE_REPAIRED, before["repaired"], name)
        yield sample(BEFORE_GIVEN_UP, before["given_up"], name)
    for path, volume in topic["bytes"].items():
        yield sample(RECEIVED_BYTES, volume["received"], name, path)
        yield sample(FORWARDED_BYTES, volume["forwarded"], name, path)
    for key, family, labels in _TIMES:
        if topic["latency"] is not None and topic["latency"][key] is not None:
            yield sample(family, buckets(topic["latency"][key]), name, topic["class"], *labels)


def _of_member(topic: str, group: str, member: Mapping[str, Any]) -> Iterator[Sample]:
    labels = (topic, group, place_name(member["ip"], member["port"]))
    yield sample(TICKETED, member["ticketed"], *labels)
    for family, key in ((GOT, "delivered"), (LEASE, "lease_s"), (WAITING, "waiting")):
        if member[key] is not None:
            yield sample(family, member[key], *labels)


#: What may become of a ticket.
TOLD = ("delivered", "dropped", "unconfirmed", "lost", "unknown", "filtered", "sampled")


def drift(topic: Mapping[str, Any]) -> int:
    """What the account of a topic leaves open; where it says itself that it does not add up, at least 1."""
    open_ = _open(topic) + sum(map(_open_of, topic["groups"]))
    return open_ or int(not topic["balanced"])


def _open(topic: Mapping[str, Any]) -> int:
    """What came of a topic, and neither went to its groups nor was refused."""
    open_: int = abs(topic["received"] - topic["fast"] - topic["slow"] - sum(topic["refused"].values()))
    return open_


def _open_of(group: Mapping[str, Any]) -> int:
    """Tickets of a group of which the account does not say what became."""
    told = sum(group[key] for key in TOLD)
    behind = sum(group[key] for key in ("redelivered", "pending", "lapsed"))
    open_: int = abs(group["tickets"] - told) + abs(group["orphaned"] - behind)
    return open_


def buckets(histogram: Mapping[str, Any]) -> Buckets:
    """A histogram of the status as one of Prometheus: in seconds, by few bounds.

    The sum goes by the middle of each bucket, so it is right within a sixteenth. What began after it ended,
    as two clocks saw it, stands as 0; what no bucket reaches, as the last bound.
    """
    filled = [(0, 1, histogram["ahead"]), *histogram["buckets"]]
    counts = [0] * len(BOUNDS)
    beyond, total = histogram["beyond"], histogram["beyond"] * BOUNDS[-1] / 1e9
    for low, above, count in filled:
        total += count * (low + above - 1) / 2 / 1e9
        index = next((i for i, bound in enumerate(BOUNDS) if above - 1 <= bound), None)
        if index is None:
            beyond += count
        else:
            counts[index] += count
    below = [(bound / 1e9, count) for bound, count in zip(BOUNDS, accumulate(counts), strict=True)]
    return Buckets(below, below[-1][1] + beyond, total)


def _by(family: Family, counts: Mapping[str, Any], *labels: str) -> Iterator[Sample]:
    for key, count in counts.items():
        yield sample(family, count, *labels, key)


#: Histograms of a topic: by which key the status has them, and labels beside topic and class.
_TIMES: tuple[tuple[str, Family, tuple[str, ...]], ...] = (
    ("program", PROGRAM, ()), ("slow", SLOW, ()),
    ("since_sent", SINCE_SENT, ("fast",)), ("slow_since_sent", SINCE_SENT, ("slow",)),
)  # fmt: skip
_KEYS = {REFUSED: "refused", LOST: "lost", PASSED: "passed"}
_OF_GROUP = {
    TICKETS: "tickets", DELIVERED: "delivered", DROPPED: "dropped", GROUP_LOST: "lost", UNKNOWN: "unknown",
    FILTERED: "filtered", SAMPLED: "sampled",
    UNCONFIRMED: "unconfirmed", REPAIRED: "repaired", GIVEN_UP: "given_up",
    ORPHANED: "orphaned", REDELIVERED: "redelivered", PENDING: "pending", LAPSED: "lapsed",
}  # fmt: skip
