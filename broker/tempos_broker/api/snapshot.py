"""Snapshots of all topics, as JSON: made in slices of the event loop, and anew only of topics that changed.

A topic of which nothing was ever counted, and in which nobody has a lease, says the same until its options,
its route or its path change (:meth:`Documents.rests_on`). Where many are alike, its JSON is that of one
of them but for what is its own (:mod:`.alike`); else it is kept. All others are told anew, for leases run.
"""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from tempos_broker.api import metrics
from tempos_broker.api.alike import Alike
from tempos_broker.api.stream import SENT_AT_ONCE, Made, field, parts
from tempos_broker.api.telling import Shared
from tempos_broker.documents import Documents
from tempos_broker.state import TopicState
from tempos_broker.status import Listed
from tempos_daemon.metrics import pieces
from tempos_daemon.slices import Slices

#: Topics whose counters are looked at together.
TOGETHER = 64


class Snapshot(NamedTuple):
    """A JSON object: what stands before ``topics``, what each of these is, what stands behind."""

    head: Mapping[str, Any]
    topics: tuple[bytes, ...]
    tail: Mapping[str, Any]

    def pieces(self) -> Iterator[bytes]:
        """The object, to be sent."""
        yield b"{" + b"".join(field(key, value) + b"," for key, value in self.head.items()) + b'"topics":'
        yield from self.array()
        yield b"".join(b"," + field(key, value) for key, value in self.tail.items()) + b"}"

    def array(self) -> Iterator[bytes]:
        """Its topics, to be sent."""
        made, size = [b"["], 0
        for number, topic in enumerate(self.topics):
            made += (b",", topic) if number else (topic,)
            size += len(topic)
            if size >= SENT_AT_ONCE:
                yield b"".join(made)
                made, size = [], 0
        yield b"".join((*made, b"]"))


class Resting(dict[str, Any]):
    """What is told of a topic that says the same until something changes; ``keep`` takes the JSON of it."""

    keep: Callable[[bytes], None]


class Kept:
    """JSON of topics, by what it rests on; ``tell`` tells of one topic."""

    def __init__(self, told: Documents, tell: Callable[[TopicState, Listed], dict[str, Any]]) -> None:
        self._told = told
        self._tell = tell
        self._alike = Alike(told, lambda state: tell(state, list))
        self._kept: dict[int, tuple[tuple[object, ...], bytes]] = {}
        self._anew = 0

    @property
    def anew(self) -> int:
        """How often a topic was told anew."""
        return self._anew + self._alike.full

    def topics(self, most: int | None = None) -> Iterator[bytes | dict[str, Any]]:
        """Every topic: its JSON if that is known, or its document, whose groups and members are iterators.

        ``most``: of those beyond that number nothing is told (``b""``).
        """
        kept: dict[int, tuple[tuple[object, ...], bytes]] = {}
        number = 0
        for some in together(self._told.present()):
            if most is not None and number >= most:
                yield from (b"" for _ in some)
                continue
            counted = self._told.have_counted([state.route.topic.id for state in some])
            for state in some:
                if self._told.is_present(state):
                    number += 1
                    yield self._one(state, counted, kept)
        if most is None:
            self._kept = kept

    def _one(
        self, state: TopicState, counted: Collection[int], kept: dict[int, tuple[tuple[object, ...], bytes]]
    ) -> bytes | dict[str, Any]:
        topic = state.route.topic.id
        if topic not in counted and (made := self._alike.of(state)) is not None:
            return made
        rests_on = None if topic in counted else self._told.rests_on(state)
        known = self._kept.get(topic)
        if rests_on is not None and known is not None and all(map(operator.is_, known[0], rests_on)):
            kept[topic] = known
            return known[1]
        self._anew += 1
        document = self._tell(state, iter)
        if rests_on is None or not document["balanced"]:
            return document
        resting, before = Resting(document), rests_on

        def keep(made: bytes) -> None:
            # It was told in slices, and may have changed between two of them.
            if (now := self._told.rests_on(state)) and all(map(operator.is_, before, now)):
                kept[topic] = before, made

        resting.keep = keep
        return resting

    def forget(self) -> None:
        """Keep nothing."""
        self._kept.clear()
        self._alike.forget()


def together(states: Iterator[TopicState]) -> Iterator[list[TopicState]]:
    """Some at a time."""
    while some := list(islice(states, TOGETHER)):
        yield some


class Snapshots:
    """``status`` and ``ledger`` of all topics; ``metrics``: the page for Prometheus, in pieces."""

    def __init__(self, told: Documents) -> None:
        self._told = told
        self.kept_status, self.kept_ledger = Kept(told, told.tell), Kept(told, told.tell_ledger)
        self.status = Shared(self._status, self.kept_status.forget)
        self.ledger = Shared(self._ledger, self.kept_ledger.forget)
        self.metrics = Shared(self._metrics)

    async def _status(self) -> Snapshot:
        head = self._told.status_head()
        topics = tuple([each async for each in _sliced(self.kept_status.topics())])
        changes = [each async for each in _sliced(each.document() for each in self._told.changes.since())]
        return Snapshot(head, topics, {"changes": Made(b"[" + b",".join(changes) + b"]")})

    async def _ledger(self) -> Snapshot:
        balanced = True

        def topics() -> Iterator[bytes | dict[str, Any]]:
            nonlocal balanced
            for each in self.kept_ledger.topics():
                # What is kept adds up.
                balanced &= isinstance(each, bytes) or each["balanced"]
                yield each

        made = tuple([each async for each in _sliced(topics())])
        return Snapshot({}, made, self._told.ledger_tail(balanced=balanced))

    async def _metrics(self) -> tuple[bytes, ...]:
        page = pieces(metrics.samples(self._told.status_head(), self.kept_status.topics(metrics.TOPICS)))
        return tuple([piece async for piece in page])


async def _sliced(topics: Iterator[bytes | dict[str, Any]]) -> AsyncIterator[bytes]:
    """The JSON of each; others have their turn in between, also within a large one."""
    slices = Slices()
    for topic in topics:
        made = []
        for piece in (topic,) if isinstance(topic, bytes) else parts(topic):
            made.append(piece)
            await slices.pause()
        whole = b"".join(made)
        if isinstance(topic, Resting):
            topic.keep(whole)
        yield whole
