"""What each topic has to carry: from ``--traffic``, else from the topic's own ``rate``.

Rules kept here: an SQ topic of which nothing is known is refused, for windows are made to measure; all
that is wrong is told at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tempos import Framing, LocalError, Overflow, Quality, Topic
from tempos.wire import header_len
from tempos_broker.config import BrokerConfig, TopicConfig
from tempos_broker.tsn.schedule import Flow
from tempos_broker.tsn.wire import Link
from tempos_daemon.schema import count, near

_FIGURES = re.compile(
    r"(?P<topic>.+)=(?P<rate>[0-9]{1,9})/s:(?P<payload>[0-9]{1,5})(?:x(?P<copies>[0-9]{1,3}))?", re.S
)


class BadTraffic(LocalError):
    """What was said of the traffic is wrong or not enough. ``problems`` holds each fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Figures:
    """``rate``: datagrams per second; ``payload``: bytes; ``copies`` None: as the configuration says."""

    topic: str
    rate: int
    payload: int
    copies: int | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """``flows``, SQ first and by priority; ``unknown``: BQ topics without figures; ``notes``: remarks."""

    flows: tuple[Flow, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def figures(text: str) -> Figures:
    """Read ``TOPIC=RATE/s:BYTES`` or ``TOPIC=RATE/s:BYTESxCOPIES``; raises :class:`BadTraffic`."""
    match = _FIGURES.fullmatch(text)
    if not match or not int(match["rate"]) or match["copies"] == "0":
        raise BadTraffic(
            [
                f"{text!r} is no TOPIC=RATE/s:BYTES, such as alarms=1000/s:64, or alarms=1000/s:64x3 for 3 "
                "groups"
            ]
        )
    copies = int(match["copies"]) if match["copies"] else None
    return Figures(match["topic"], int(match["rate"]), int(match["payload"]), copies)


def traffic(
    config: BrokerConfig, given: Iterable[Figures], link: Link, payload: int | None = None
) -> Traffic:
    """The flows of a configuration; raises :class:`BadTraffic` with every fault.

    ``payload``: bytes of topics of which only a rate is known; None: the most that the broker takes and one
    frame carries.
    """
    problems: list[str] = []
    notes: list[str] = []
    named = _named(config, given, problems)
    largest = min(config.limits.datagram, link.largest_payload)
    flows: list[Flow] = []
    unknown: list[str] = []
    for entry in sorted(config.topics, key=_order):
        topic = entry.topic
        found = named.get(topic.name)
        if found is None and topic.rate:
            found = Figures(topic.name, topic.rate, largest if payload is None else payload)
            if payload is None:
                notes.append(
                    f"topic {topic.name} is reckoned with its rate and the largest datagrams, "
                    f"{largest:,} bytes; --datagram or --traffic tell better"
                )
        if found is not None:
            problems += _faults(topic, found)
            flows.append(_flow(entry, found, notes))
        elif topic.quality is Quality.BQ:
            unknown.append(topic.name)
        else:
            problems.append(
                f"topic {topic.name} is SQ, and nothing tells how much it sends: give "
                f"--traffic {topic.name}=RATE/s:BYTES, or a rate in the configuration"
            )
    if problems:
        raise BadTraffic(problems)
    return Traffic(tuple(flows), tuple(unknown), tuple(notes))


def _order(entry: TopicConfig) -> tuple[bool, int]:
    return entry.topic.quality is Quality.BQ, -entry.topic.priority


def _faults(topic: Topic, found: Figures) -> Iterator[str]:
    header = header_len(topic.id, topic.framing)
    if topic.framing is Framing.EVENT and found.payload < header:
        yield (
            f"topic {topic.name}: {found.payload} bytes are less than the header of event topics, "
            f"{header} bytes, which counts as payload"
        )
    if topic.framing is Framing.RAW and not found.payload:
        yield f"topic {topic.name}: 0 bytes; a datagram has at least the byte that names its topic"


def _flow(entry: TopicConfig, found: Figures, notes: list[str]) -> Flow:
    topic, rate = entry.topic, found.rate
    if topic.rate and topic.overflow is Overflow.DROP and rate > topic.rate:
        notes.append(
            f"topic {topic.name}: planned with its limit of {topic.rate:,} datagrams/s, not with {rate:,}: "
            "what is beyond the limit is dropped"
        )
        rate = topic.rate
    copies = _groups(entry) if found.copies is None else found.copies
    return Flow(topic.name, topic.quality, topic.priority, rate, found.payload, copies)


def bursts(config: BrokerConfig, flows: Iterable[Flow], cycle: int) -> list[str]:
    """Of the limited SQ topics, those whose permitted burst takes more than one window to leave."""
    topics = {entry.topic.name: entry.topic for entry in config.topics}
    notes = []
    for flow in flows:
        bucket = topics[flow.topic].bucket
        cycles = -(-bucket // flow.per_cycle(cycle))
        if flow.quality is Quality.SQ and cycles > 1:
            notes.append(
                f"topic {flow.topic} may send {count(bucket, 'datagram')} at once, and a window has room for "
                f"{flow.per_cycle(cycle)} of them: the last of such a burst leaves in the {cycles}th cycle"
            )
    return notes


def _named(config: BrokerConfig, given: Iterable[Figures], problems: list[str]) -> Mapping[str, Figures]:
    names = [entry.topic.name for entry in config.topics]
    found: dict[str, Figures] = {}
    for each in given:
        if each.topic not in names:
            hint = near(each.topic, names)
            problems.append(f"--traffic: there is no topic {each.topic}{hint}; there are {', '.join(names)}")
        elif each.topic in found:
            problems.append(f"--traffic: topic {each.topic} is given twice")
        found[each.topic] = each
    return found


def _groups(entry: TopicConfig) -> int:
    """The groups that the file names, at least 1; a member without one is a group of its own."""
    groups = {member.group or f"{member.ip}:{member.port}/" for member in entry.members}
    return max(1, len(groups))
