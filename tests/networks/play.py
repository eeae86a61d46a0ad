"""Plays a case: a broker, a member of each group, a publisher, N events, and the accounts of all of them.

Every body is made from its number, so that what arrives is known to be whole. Nothing may be lost without
being told: at the member (`missed`), in the broker's ledger (`lost`), and by both to the same number. What
was lost before the broker is told by both as well.
"""

from __future__ import annotations

import json
import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from networks.ground import Ground
from networks.network import Build, Dropped, Network
from tempos import NoAnswer, Quality, Topic
from tempos.blocking import Publisher, Subscriber
from tempos.subscriber import Drained, PublisherAccount, SubscriberStats
from tempos_bench.measure.broker import TopicStatus, config_text, topic_status
from tempos_bench.nodes.node import PYTHON, TEXT_FILE, Program
from tempos_bench.nodes.patience import patience

T = TypeVar("T")

TOPIC = Topic(id=1, name="t", quality=Quality.SQ)
EVENTS = 200
#: Events a second: what a link delays meets its neighbours, and no queue is ever full.
RATE = 400.0
READY_LIMIT, ANSWER_LIMIT = 60.0, 30.0
#: Seconds until a broker that is ready has had a turn.
ASKING = patience(5.0)
#: Seconds until a path is what it will stay: neighbours are resolved, interfaces looked at. It is, too, if
#: nothing has changed for the shorter time.
SETTLE_LIMIT, UNCHANGED = patience(5.0), patience(2.0)
#: For those that do not come: how long the last may take.
PATIENCE = max(3.0, patience(1.0))
#: A look is work for the broker as well, which on a slow machine would do nothing else.
_LOOK_EVERY = patience(0.05)


@dataclass(frozen=True)
class Heard:
    """What one member got, and its own account of it; ``broken``: bodies that are no longer what was sent.

    ``deliveries``: different ones; what a network doubles before the broker is two of them, behind it one.
    ``publishers``: what it can tell of what was lost before the broker.
    """

    numbers: tuple[int, ...]
    broken: int
    deliveries: int
    stats: SubscriberStats
    drained: Drained | None
    publishers: tuple[PublisherAccount, ...]


@dataclass(frozen=True)
class Played:
    """All that a judgement needs: the members' accounts, the broker's, its path, and why it chose that.

    ``passed``: what its programs left to the slow path, by their reasons. ``dropped``: what queues on the
    broker's way out threw away, if it is about those.
    """

    heard: tuple[Heard, ...]
    status: TopicStatus
    path: str
    reason: str
    passed: Mapping[str, int] = field(default_factory=dict)
    dropped: Dropped | None = None


class Serving:
    """A broker in a node, started as the network says, and asked for its status there."""

    def __init__(self, network: Network, mode: str, interfaces: Sequence[str]) -> None:
        node = network.broker
        self._node, self._within = node, network.within
        text = config_text(node.addresses, {TOPIC: ()}, mode, interfaces)
        command = (*network.within, PYTHON, "-m", "tempos_broker", "-c", TEXT_FILE)
        self.program: Program = node.start(command, ready="ready", limit=READY_LIMIT, text=text)

    def topic(self) -> TopicStatus:
        (entry,) = [each for each in self._status()["topics"] if each["name"] == TOPIC.name]
        return topic_status(entry)

    def passed(self) -> dict[str, int]:
        """What the programs have left to the slow path, of all topics and of none, by reason."""
        found: dict[str, int] = self._status()["paths"]["fast"].get("passed", {})
        return found

    def wait(self, done: Callable[[TopicStatus], bool], limit: float) -> TopicStatus:
        """The status once it is ``done``, or at the end of ``limit`` seconds."""
        end = time.monotonic() + limit
        while not done(status := self.topic()) and time.monotonic() < end:
            time.sleep(_LOOK_EVERY)
        return status

    def settle(self, path: str) -> TopicStatus:
        """The status once the topic is on ``path``, or stays where it is."""
        now = time.monotonic()
        end, unchanged, before = now + SETTLE_LIMIT, now + UNCHANGED, ("", "")
        while (status := self.topic()).path != path and (now := time.monotonic()) < min(end, unchanged):
            if (status.path, status.reason) != before:
                before, unchanged = (status.path, status.reason), now + UNCHANGED
            time.sleep(_LOOK_EVERY)
        return status

    def _status(self) -> dict[str, Any]:
        if not self._within:
            found: dict[str, Any] = self._node.request("GET", "/v1/status")
            return found
        asking = self._node.start((*self._within, PYTHON, "-m", "tempos", "status", "--json"))
        code = asking.wait(ANSWER_LIMIT)
        assert code == 0, asking.output
        answer: dict[str, Any] = json.loads(asking.output)
        return answer


def body(number: int) -> bytes:
    """Forty bytes that tell their number and that they are whole."""
    text = f"{number:08d}" + "." * 24
    return f"{text}{zlib.crc32(text.encode()):08x}".encode()


def number_of(data: object) -> int | None:
    """The number of a body that is whole, else None."""
    if not isinstance(data, bytes) or not data[:8].isdigit():
        return None
    number = int(data[:8])
    return number if data == body(number) else None


def play(build: Build, mode: str, path: str, groups: int = 1, interfaces: Sequence[str] = (),
         blind: bool = False) -> Played:  # fmt: skip
    """Play one case; ``path`` is the one that the topic is waited for to settle on, for a while.

    ``blind``: the publisher cannot ask the broker for the topic and sends all the same.
    """
    with Ground() as ground, ExitStack() as stack:
        network = build(ground)
        broker = Serving(network, mode, interfaces)
        members = []
        for number in range(groups):
            member = network.subscriber.call(partial(_subscribe, network.subscribe_at, f"g{number}"))
            stack.callback(member.close)
            members.append(member)
        settled = broker.settle(path)
        network.begin()
        network.publisher.call(lambda: _publish(network.publish_to, blind))
        broker.wait(lambda status: status.received >= EVENTS, PATIENCE)
        _wait_for(lambda: all(member.stats.datagrams >= EVENTS for member in members), PATIENCE)
        heard = tuple(map(_leave, members))
        told = broker.wait(lambda status: status.before.settled, PATIENCE)
        return Played(heard, told, settled.path, settled.reason, broker.passed(), network.dropped())


def waiting(build: Build, mode: str, interfaces: Sequence[str], says: str) -> str:
    """All that a broker says until it is ready, and then until it has said what ``says`` is a pattern for."""
    with Ground() as ground:
        program = Serving(build(ground), mode, interfaces).program
        _wait_for(lambda: re.search(says, program.output) is not None, PATIENCE)
        return program.output


def _patiently(enter: Callable[[], T]) -> T:
    """As whoever is told that nobody answers, and knows that the machine is slow: once more, for a while."""
    end = time.monotonic() + ASKING
    while True:
        try:
            return enter()
        except NoAnswer:
            if time.monotonic() > end:
                raise


def _subscribe(address: str, group: str) -> Subscriber:
    return _patiently(lambda: Subscriber(address, TOPIC.name, group=group).__enter__())


def _publish(address: str, blind: bool) -> None:
    publisher = _patiently(lambda: Publisher(address, topics=[TOPIC] if blind else None).__enter__())
    with closing(publisher):
        began = time.monotonic()
        for number in range(EVENTS):
            # The load itself: so many a second.
            time.sleep(max(0.0, began + number / RATE - time.monotonic()))
            publisher.publish(TOPIC.name, body(number))


def _leave(member: Subscriber) -> Heard:
    drained = member.drain(PATIENCE)
    numbers = []
    broken = 0
    deliveries = set()
    while (event := member.poll()) is not None:
        deliveries.add((event.epoch, event.delivery_sequence))
        number = number_of(event.body)
        if number is None:
            broken += 1
        else:
            numbers.append(number)
    return Heard(tuple(numbers), broken, len(deliveries), member.stats, drained, member.publishers)


def _wait_for(done: Callable[[], bool], limit: float) -> None:
    end = time.monotonic() + limit
    while not done() and time.monotonic() < end:
        time.sleep(_LOOK_EVERY)
