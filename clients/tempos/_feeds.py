"""The topics of one member, and what is known of each: by id for the reader, as counts for heartbeats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tempos import _abi
from tempos._pages import Pages
from tempos.control import Dropped, Received
from tempos.delivery import GapTracker, Tally
from tempos.model import Framing, Topic


class Feed:
    """One topic of this member."""

    __slots__ = ("dropped", "group", "is_event", "missed", "name", "see", "tally", "topic", "tracker")

    def __init__(self, topic: Topic, group: str) -> None:
        self.topic = topic
        self.name = topic.name
        self.group = group
        self.is_event = topic.framing is Framing.EVENT
        self.tracker = GapTracker()
        self.see = self.tracker.see
        #: What arrived of a ``raw`` topic, which has no epochs.
        self.tally = Tally()
        #: Of what arrived, what the consumer was not given.
        self.dropped = Tally()
        # What the next event says it misses: lost on the way or dropped here since the last one, less
        # what has come after it had been counted so.
        self.missed = 0

    def new_broker(self) -> None:
        """The broker is another instance now."""
        self.tracker.new_broker()
        self.tally.new_broker()
        self.dropped.new_broker()

    def forgotten(self) -> None:
        """The broker does not know this member (any more)."""
        self.tally.forgotten()
        self.dropped.forgotten()

    def received(self, *, again: bool) -> list[Received]:
        """What a heartbeat tells of what arrived: of a ``raw`` topic one count, under epoch 0, each time."""
        if self.is_event:
            return self.tracker.report(self.topic.id, self.group, again=again)
        return [Received(self.topic.id, self.group, 0, self.tally.told)]


class Feeds:
    """The topics of a member by id; also what its heartbeats tell (see ``session.Counts``)."""

    def __init__(self) -> None:
        self.by_id: list[Feed | None] = [None] * _abi.TOPICS
        # Which life of the broker answered last; None: one that does not say.
        self._life: object = None

    def __iter__(self) -> Iterator[Feed]:
        return (feed for feed in self.by_id if feed is not None)

    def put(self, topic: Topic, group: str) -> Feed:
        """Take a membership in; what is known of the same topic goes on."""
        known = self.by_id[topic.id]
        if known is not None and known.topic == topic:
            known.group = group
            return known
        for feed in self:
            if feed.name == topic.name:
                self.by_id[feed.topic.id] = None
        feed = self.by_id[topic.id] = Feed(topic, group)
        return feed

    def report(self, **load: int) -> list[dict[str, Any]]:
        """Pages of what is to be told, and of which topics it is asked what epoch is in force.

        ``load``: how this member keeps up, on every page.
        """
        pages = Pages(full=True, **load)
        for feed in self:
            # A broker that does not say when it began may have begun again, and have lost the latest.
            for row in feed.received(again=self._life is None):
                pages.add("received", row)
            if feed.dropped.is_news:
                pages.add("dropped", Dropped(feed.topic.id, feed.group, feed.dropped.told))
        for feed in self:
            if feed.is_event:
                pages.add("topics", feed.topic.id)
        return pages.done()

    def acknowledge(self, told: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """The broker has this page, and said ``answer``."""
        life = answer.get("life", self._life)
        if life != self._life:
            if self._life is not None:
                self.tell_again()
            self._life = life
        for row in told["received"]:
            known = self._known(row.topic, row.group)
            if known is not None:
                known.tracker.acknowledge(row)
        for drop in told.get("dropped", ()):
            known = self._known(drop.topic, drop.group)
            if known is not None:
                known.dropped.acknowledge(drop.datagrams)
        for topic, epoch in _epochs(answer.get("epochs")):
            member_of = self.by_id[topic]
            if member_of is not None:
                member_of.tracker.in_force(epoch)

    def tell_again(self) -> None:
        """Take nothing as acknowledged."""
        for feed in self:
            feed.tracker.tell_again()
            feed.dropped.tell_again()

    def _known(self, topic: int, group: str) -> Feed | None:
        feed = self.by_id[topic]
        return feed if feed is not None and feed.group == group else None


def _epochs(told: object) -> Iterator[tuple[int, int]]:
    """What an answer says of topics and their epochs; what is none of that is passed over."""
    for row in told if isinstance(told, list) else ():
        match row:
            case [int(topic), int(epoch), *_] if 0 <= topic < _abi.TOPICS and epoch > 0:
                yield topic, epoch
