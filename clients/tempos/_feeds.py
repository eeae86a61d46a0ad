"""The topics of one member, and what is known of each: by id for the reader, as counts for heartbeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tempos import _abi
from tempos.control import Received
from tempos.delivery import GapTracker, Tally
from tempos.model import Framing, Topic


class Feed:
    """One topic of this member."""

    __slots__ = ("group", "is_event", "missed", "name", "see", "tally", "topic", "tracker")

    def __init__(self, topic: Topic, group: str) -> None:
        self.topic = topic
        self.name = topic.name
        self.group = group
        self.is_event = topic.framing is Framing.EVENT
        self.tracker = GapTracker()
        self.see = self.tracker.see
        self.tally = Tally()
        # What the next event says it misses: lost on the way or dropped here since the last one, less
        # what has come after it had been counted so.
        self.missed = 0


class Feeds:
    """The topics of a member by id; also what its heartbeats tell (see ``session.Counts``)."""

    def __init__(self) -> None:
        self.by_id: list[Feed | None] = [None] * _abi.TOPICS

    def __iter__(self) -> Any:
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

    def report(self) -> list[Received]:
        return [
            row
            for feed in self
            for row in (feed.tracker if feed.is_event else feed.tally).report(feed.topic.id, feed.group)
        ]

    def acknowledge(self, rows: Sequence[Received]) -> None:
        for row in rows:
            feed = self.by_id[row.topic]
            if feed is not None and feed.group == row.group:
                feed.tracker.acknowledge(row)
