"""The topics of one member, and what is known of each: by id for the reader, as counts for heartbeats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import nsmallest
from typing import Any

from tempos import _abi
from tempos._pages import Pages
from tempos.control import Asked, Dropped, Lacking, Received, Repaired, Told
from tempos.delivery import GapTracker, Tally
from tempos.encryption import Decryptor, TopicKeys
from tempos.model import Framing, Topic
from tempos.receiving.sources import PublisherAccount, Said, Sources
from tempos.repair.gaps import Count
from tempos.wire import header_len

#: How the names of groups begin that are one subscriber's own.
OWN_GROUP = "~"
#: Publishers of which one heartbeat tells at most.
PUBLISHERS_TOLD = 64
#: Topics of which one heartbeat asks at most.
TOPICS_ASKED = 192


class Feed:
    """One topic of this member."""

    __slots__ = (
        "asked",
        "body_at",
        "decryptor",
        "dropped",
        "group",
        "id",
        "is_event",
        "lacking_told",
        "mended",
        "mended_told",
        "missed",
        "name",
        "redelivers",
        "see",
        "source_of",
        "sources",
        "tally",
        "topic",
        "tracker",
    )

    def __init__(self, topic: Topic, group: str, decryptor: Decryptor | None = None) -> None:
        self.topic = topic
        #: Where its bodies are encrypted.
        self.decryptor = decryptor
        self.id = topic.id
        self.name = topic.name
        self.group = group
        self.is_event = topic.framing is Framing.EVENT
        #: Where in a datagram of it the body begins.
        self.body_at = header_len(topic.id, topic.framing)
        self.tracker = GapTracker()
        self.see = self.tracker.see
        #: What arrived of a ``raw`` topic, which has no epochs.
        self.tally = Tally()
        #: Of what arrived, what the consumer was not given.
        self.dropped = Tally()
        #: Whose events arrived.
        self.sources = Sources(own=group.startswith(OWN_GROUP))
        self.source_of = self.sources.by_id.get
        self.lacking_told: Lacking | None = None
        #: What became of what it missed; None: it is not repaired.
        self.mended: Count | None = None
        self.mended_told: Repaired | None = None
        #: Whether what of it is not processed goes to others when this member is gone.
        self.redelivers = False
        # What the next event says it misses: lost on the way or dropped here since the last one, less
        # what has come after it had been counted so.
        self.missed = 0
        #: In which heartbeat it was last asked what publishers of it have told.
        self.asked = 0

    def in_force(self, epoch: int, members: int) -> None:
        """The broker says which epoch is in force, and how many members the group has in it."""
        if self.is_event and epoch > 0:
            self.tracker.in_force(epoch)
            self.sources.members(epoch, members)

    def new_broker(self) -> None:
        """The broker is another instance now."""
        self.tracker.new_broker()
        self.tally.new_broker()
        self.dropped.new_broker()
        self.sources.new_broker()
        self.lacking_told = self.mended_told = None

    def forgotten(self) -> None:
        """The broker does not know this member (any more)."""
        self.tally.forgotten()
        self.dropped.forgotten()
        self.sources.unfollowed.forgotten()

    def alone(self) -> bool:
        """Whether nobody else got events of the group in the epoch of the latest datagram."""
        return self.sources.alone(self.tracker.epoch)

    def publishers(self, *, drained: bool) -> Iterator[PublisherAccount]:
        """What can be told of each publisher; ``drained``: all deliveries have come."""
        return self.sources.accounts(self.name, self.tracker.missed, alone=self.alone(), drained=drained)

    def tell_again(self) -> None:
        """The broker began another life, and may have lost what it has acknowledged."""
        self.tracker.tell_again()
        self.tally.tell_again()
        self.dropped.tell_again()
        self.sources.tell_again()
        self.lacking_told = self.mended_told = None

    def repairs(self) -> Repaired | None:
        """What became of what it missed, where that is news."""
        if self.mended is None:
            return None
        row = Repaired(self.topic.id, self.group, self.mended.repaired, self.mended.given_up)
        return None if row == self.mended_told else row

    def lacking(self) -> Lacking:
        """What is known to be missing."""
        return Lacking(self.topic.id, self.group, self.tracker.missed, self.sources.unfollowed.told)

    def received(self, *, again: bool) -> list[Received]:
        """What a heartbeat tells of what arrived: of a ``raw`` topic one count, under epoch 0."""
        if self.is_event:
            return self.tracker.report(self.topic.id, self.group, again=again)
        if not self.tally.is_news and not again:
            return []
        return [Received(self.topic.id, self.group, 0, self.tally.told)]


class Feeds:
    """The topics of a member by id; also what its heartbeats tell (see ``session.Counts``)."""

    def __init__(self, keys: TopicKeys | None = None) -> None:
        #: By the first byte of their datagrams.
        self.narrow: list[Feed | None] = [None] * _abi.NARROW
        #: Others, by their ids: wide ones, which follow that byte, and those that are encrypted.
        self.others: dict[int, Feed] = {}
        self._keys = keys
        # Which life of the broker answered last; None: one that does not say.
        self._life: object = None
        self._asked = 0

    def __iter__(self) -> Iterator[Feed]:
        yield from [feed for feed in self.narrow if feed is not None]
        yield from list(self.others.values())

    def get(self, topic: int) -> Feed | None:
        """The feed of a topic id, whatever number that is."""
        return (self.narrow[topic] if 0 <= topic < _abi.NARROW else None) or self.others.get(topic)

    def remove(self, topic: int) -> None:
        """Let go of a topic, if it is there."""
        if topic < _abi.NARROW:
            self.narrow[topic] = None
        self.others.pop(topic, None)

    def put(self, topic: Topic, group: str) -> Feed:
        """Take a membership in; what is known of the same topic goes on."""
        known = self.get(topic.id)
        if known is not None and (known.name, known.topic.framing) == (topic.name, topic.framing):
            known.topic, known.group = topic, group
            return known
        for feed in self:
            if feed.name == topic.name:
                self.remove(feed.id)
        keys = self._keys.named(topic) if self._keys is not None else []
        feed = Feed(topic, group, Decryptor(keys) if keys else None)
        if topic.id < _abi.NARROW and feed.decryptor is None:
            self.narrow[topic.id] = feed
        else:
            self.others[topic.id] = feed
        return feed

    def report(self, **load: int) -> list[dict[str, Any]]:
        """Pages of what is to be told, and of which topics it is asked what their publishers have told.

        ``load``: how this member keeps up, on every page.
        """
        pages = Pages("received", full=True, **load)
        for feed in self:
            # A broker that does not say when it began may have begun again, and have lost the latest.
            for row in feed.received(again=self._life is None):
                pages.add("received", row)
            if feed.dropped.is_news:
                pages.add("dropped", Dropped(feed.topic.id, feed.group, feed.dropped.told))
            if feed.is_event and (lacking := feed.lacking()) != feed.lacking_told:
                pages.add("lacking", lacking)
            if (repaired := feed.repairs()) is not None:
                pages.add("repairs", repaired)
        events = [feed for feed in self if feed.is_event]
        news = [
            (turn, row)
            for feed in events
            for turn, row in feed.sources.news(feed.group, feed.topic.id, feed.tracker.missed)
        ]
        for feed in events:
            feed.sources.reported()
        # Those that were told longest ago come first, so that all have their turn.
        for _, heard in nsmallest(PUBLISHERS_TOLD, news):
            pages.add("publishers", heard)
        # Where it can tell by that what is missing, it hears what publishers have told; all have their turn.
        asking = [feed for feed in events if feed.sources.by_id and feed.alone()]
        asking.sort(key=lambda feed: feed.asked)
        self._asked += 1
        for feed in asking[:TOPICS_ASKED]:
            feed.asked = self._asked
            pages.add("topics", Asked(feed.topic.id, feed.sources.heard))
        made = pages.done()
        for page in made:
            rows = page.get("publishers", ())
            page["untold"] = len(news) - len(rows)
            for told in rows:
                telling = self.get(told.topic)
                if telling is not None:
                    telling.sources.telling(told.publisher)
        return made

    def acknowledge(self, told: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """The broker has this page, and said ``answer``."""
        life = answer.get("life", self._life)
        if life != self._life:
            if self._life is not None:
                for feed in self:
                    feed.tell_again()
            self._life = life
        for row in told["received"]:
            known = self._known(row.topic, row.group)
            if known is not None and known.is_event:
                known.tracker.acknowledge(row)
            elif known is not None:
                known.tally.acknowledge(row.datagrams)
        for drop in told.get("dropped", ()):
            known = self._known(drop.topic, drop.group)
            if known is not None:
                known.dropped.acknowledge(drop.datagrams)
        for lacking in told.get("lacking", ()):
            known = self._known(lacking.topic, lacking.group)
            if known is not None:
                known.lacking_told = lacking
        for repaired in told.get("repairs", ()):
            known = self._known(repaired.topic, repaired.group)
            if known is not None:
                known.mended_told = repaired
        for heard in told.get("publishers", ()):
            known = self._known(heard.topic, heard.group)
            if known is not None:
                known.sources.acknowledge(heard)
        for topic, publisher, version, *said in _rows(answer.get("told"), len(Told._fields)):
            known = self.get(topic)
            if known is not None:
                known.sources.tell(publisher, version, Said(*said))

    def tell_again(self) -> None:
        """Take no count of what arrived as acknowledged.

        Of whose events it was only what is news is told: that is most, and there is little time.
        """
        for feed in self:
            feed.tracker.tell_again()
            feed.tally.tell_again()
            feed.dropped.tell_again()
            feed.mended_told = None

    def _known(self, topic: int, group: str) -> Feed | None:
        feed = self.get(topic)
        return feed if feed is not None and feed.group == group else None


def _rows(told: object, length: int) -> Iterator[list[int]]:
    """Rows of numbers that an answer holds, each with a topic first; what is none of that is passed over."""
    for row in told if isinstance(told, list) else ():
        if (
            isinstance(row, list)
            and len(row) == length
            and all(type(each) is int and each >= 0 for each in row)
        ):
            yield row
