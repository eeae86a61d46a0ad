"""What was lost before the broker, per publisher: what publishers say they sent, and what members got of it.

Publishers number their events on each topic and tell, now and then, how many they have sent; members tell
how many they got of which publisher. A number that no member of a group got, and that was not lost behind the
broker, never drew a ticket of that group: it was lost on its way to the broker, or the broker refused it
(the topic's ``refused`` says how many it did). Sans-IO: time is an argument (monotonic seconds). Rules:

* what is told is an *at least* and an *at most*, equal where it is known exactly. What is on its way counts
  as lost until it comes;
* a group speaks of the whole of a publisher only if it had members from before the publisher began; else of
  what came after the first event it got. The publisher proves when it began by the clock that the broker told
  it when it asked for the topic;
* while events flow, members have told different stretches: the *at least* goes to where the slowest of them
  is, the *at most* to where the quickest is. Once all of them have told everything after the publisher's last
  word, both go to the end;
* deliveries that are missing may have been any publisher's, so they are taken off the *at least* of each;
* memory is bounded; of publishers that fall out the sums are kept, and those that found no room are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tempos.control import Heard, Lacking, Sent, Told
from tempos_broker.account.accounts import Holder
from tempos_broker.account.bounds import (
    Followed,
    Listening,
    PublisherRow,
    Undelivered,
    View,
    publisher_row,
)

#: Publishers kept of a topic, rows of members about them, and groups that ended.
PUBLISHERS, ROWS, ENDED = 256, 4096, 64
#: Numbers of publishers that were forgotten or found no room, kept of a topic.
NUMBERS = 1024
#: So many rows about members that are there are stored of a group: all of few, none of many.
STORED = 256
#: Seconds after which a silent publisher may be forgotten; for which a group that ended is kept, should its
#: members still say something.
QUIET, LEFT = 60.0, 60.0
#: Seconds after it left within which a member tells its last, and others what they got meanwhile.
TELLS = 6.0

_U32 = 0xFFFFFFFF
_HALF = 0x80000000


@dataclass(slots=True)
class _Sums:
    """Publishers that are not kept any more. ``at_most`` None: unknown.

    ``counted``: datagrams of those of which all is in the counters of this life.
    """

    publishers: int = 0
    sent: int = 0
    counted: int = 0
    at_least: int = 0
    at_most: int | None = 0
    repaired: int = 0
    given_up: int = 0

    def add(self, sent: int, at_least: int, at_most: int | None) -> None:
        self.publishers += 1
        self.sent += sent
        self.at_least += at_least
        self.at_most = None if None in (self.at_most, at_most) else (self.at_most or 0) + (at_most or 0)


@dataclass(slots=True)
class _Topic:
    publishers: dict[int, Followed] = field(default_factory=dict)
    groups: dict[str, Listening] = field(default_factory=dict)
    version: int = 0
    rows: int = 0
    forgotten: _Sums = field(default_factory=_Sums)
    unfollowed: dict[int, None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PublishersAccount:
    """What is known of a topic's publishers; ``at_least`` and ``at_most`` over all of them.

    ``settled``: all of them have been told to their last words; otherwise what there is so far.
    ``forgotten``: how many that are done are only in the sums; ``unfollowed``: how many found no room.
    ``repaired``: datagrams that were taken when they were sent again; ``given_up``: events asked for no more.
    """

    rows: tuple[PublisherRow, ...]
    forgotten: int
    unfollowed: int
    sent: int
    at_least: int
    at_most: int | None
    settled: bool
    repaired: int = 0
    given_up: int = 0


class Publishers:
    """The publishers of every topic. ``undelivered`` tells it of a topic and group that has ended."""

    def __init__(self, undelivered: Callable[[int, str], Undelivered]) -> None:
        self._undelivered = undelivered
        self._topics: dict[int, _Topic] = {}
        #: Topics of which nothing was told yet: the groups with members, and since when they have any.
        self._quiet: dict[int, tuple[tuple[str, Sequence[Holder], float], ...]] = {}
        # When a member had told everything it had to tell, last.
        self._complete: dict[Holder, float] = {}

    def forget(self, topic: int) -> None:
        """The topic is no more."""
        self._topics.pop(topic, None)
        self._quiet.pop(topic, None)

    def follows(self, topic: int) -> bool:
        """Whether anything was told of a topic."""
        return topic in self._topics

    def _topic(self, topic: int) -> _Topic:
        """All of a topic of which something is told, or about to be."""
        state = self._topics.get(topic)
        if state is None:
            state = self._topics[topic] = _Topic()
            for name, holders, since in self._quiet.pop(topic, ()):
                state.groups[name] = Listening(since)
                state.groups[name].are_in(frozenset(holders), since)
        return state

    # --- what happens -----------------------------------------------------------------------

    def in_force(
        self, topic: int, groups: Iterable[tuple[str, Sequence[Holder]]], now: float, *, quiet: bool = False
    ) -> None:
        """A route is in force on both paths, with these groups and holders.

        ``quiet``: no event of the topic went to anybody before it.
        """
        if quiet and topic not in self._topics:
            since = {name: at for name, _, at in self._quiet.get(topic, ())}
            self._quiet[topic] = tuple(
                (name, holders, since.get(name, now)) for name, holders in groups if holders
            )
            return
        state = self._topic(topic)
        present = {name: frozenset(holders) for name, holders in groups if holders}
        for name, group in state.groups.items():
            if name not in present and group.until is None:
                group.until = now
        for name, holders in present.items():
            known = state.groups.get(name)
            if known is not None and known.until is not None:
                self._end(topic, state, name)
                known = None
            if known is None:
                known = state.groups[name] = Listening(now)
            known.are_in(holders, now)
            self._fold_former(state, known, now)
        ended = [name for name, group in state.groups.items() if group.until is not None]
        for place, name in enumerate(ended):
            until = state.groups[name].until
            if place < len(ended) - ENDED or (until is not None and until < now - LEFT):
                self._end(topic, state, name)

    def _fold_former(self, state: _Topic, group: Listening, now: float) -> None:
        """Who left long ago, or with many others, is told of no more by name."""
        for holder, at in list(group.left.items()):
            if at > now - LEFT and (at > now - TELLS or len(group.left) <= ENDED):
                break
            state.rows -= group.fold(holder)

    def heard(self, holder: Holder, row: Heard, now: float) -> None:
        """What a member got of a publisher. Foreign claims are ignored."""
        state = self._topic(row.topic) if row.topic in self._quiet else self._topics.get(row.topic)
        group = state.groups.get(row.group) if state else None
        member = group.members.get(holder) if group else None
        if state is None or member is None:
            return
        assert group is not None
        seen = group.rows.get(row.publisher, {}).get(holder)
        if seen is None:
            publisher = self._publisher(state, row.topic, row.publisher, now)
            if publisher is None:
                self._note_unfollowed(state, row.publisher)
                return
            if state.rows >= ROWS:
                # What the others lack, this one may have got.
                group.blind = True
                return
            publisher.changed = now
            group.rows.setdefault(row.publisher, {})[holder] = group.first_word(row)
            state.rows += 1
            return
        known = seen.row
        if (row.first - known.first - known.passed) & _U32 < _HALF:
            # It begins beyond all that was known: the member had forgotten the publisher, and counts anew.
            seen.before = (seen.before[0] + known.datagrams, seen.before[1] + known.events)
        elif row.events < known.events or row.passed < known.passed:
            return
        if row != known:
            seen.row = row
            if (publisher := state.publishers.get(row.publisher)) is not None:
                publisher.changed = now

    def lacking(self, holder: Holder, row: Lacking) -> None:
        """What a member knows to be missing."""
        if row.topic in self._quiet and (row.missed or row.unfollowed):
            self._topic(row.topic)
        state = self._topics.get(row.topic)
        group = state.groups.get(row.group) if state else None
        member = group.members.get(holder) if group else None
        if member is not None:
            member.missed, member.unfollowed = row.missed, row.unfollowed

    def complete(self, holder: Holder, now: float) -> None:
        """A member has told everything that it has to tell."""
        if holder not in self._complete and len(self._complete) > NUMBERS:
            here = {
                each for state in self._topics.values() for group in state.groups.values()
                for each in group.members
            } | {
                each for places in self._quiet.values() for _, holders, _ in places for each in holders
            }  # fmt: skip
            self._complete = {each: at for each, at in self._complete.items() if each in here}
        self._complete[holder] = now

    def said(
        self, publisher: int, row: Sent, *, ip: str, began: float | None, final: bool, now: float
    ) -> None:
        """What a publisher says; ``began``: when it asked for the topic, if that can be known."""
        state = self._topic(row.topic)
        known = self._publisher(state, row.topic, publisher, now)
        if known is None:
            self._note_unfollowed(state, publisher)
            return
        if known.said is not None and row.numbered < known.said.numbered:
            # An old word that was overtaken.
            return
        if known.said is None and began is not None:
            known.began, known.counted = began, True
        if row != known.said or final != known.final:
            state.version += 1
            known.version = state.version
            # In the order of versions.
            state.publishers[publisher] = state.publishers.pop(publisher)
            known.said_at = known.changed = now
        known.said, known.ip, known.final = row, ip, final

    def resent(self, publisher: int, topic: int, *, repaired: int, given_up: int, now: float) -> None:
        """So many datagrams of a publisher were taken when it sent them again.

        It has given up so many events.
        """
        state = self._topic(topic)
        known = self._publisher(state, topic, publisher, now)
        if known is not None:
            known.repaired += repaired
            known.given_up = max(known.given_up, given_up)

    def news(self, topic: int, known: int) -> Iterator[Told]:
        """What publishers have said beyond the version that is known, the oldest first."""
        state = self._topics.get(topic)
        if state is None or state.version <= known:
            return
        for publisher in state.publishers.values():
            said = publisher.said
            if said is not None and publisher.version > known:
                yield Told(topic, publisher.number, publisher.version, *said[1:])

    def _publisher(self, state: _Topic, topic: int, number: int, now: float) -> Followed | None:
        """A publisher, old or new; None if there is no room for a new one."""
        known = state.publishers.get(number)
        if known is not None:
            return known
        if len(state.publishers) >= PUBLISHERS:
            done = [each for each in state.publishers.values() if each.final] or [
                each for each in state.publishers.values() if each.changed < now - QUIET
            ]
            if not done:
                return None
            self._forget(topic, state, min(done, key=lambda each: each.changed))
        state.unfollowed.pop(number, None)
        publisher = state.publishers[number] = Followed(number, changed=now)
        return publisher

    def _note_unfollowed(self, state: _Topic, number: int) -> None:
        if number not in state.publishers and len(state.unfollowed) < NUMBERS:
            state.unfollowed[number] = None

    def _forget(self, topic: int, state: _Topic, publisher: Followed) -> None:
        views = self._views(state, lambda name: self._undelivered(topic, name))
        row = publisher_row(publisher, views, None)
        sums = state.forgotten
        sums.add(row.sent, row.at_least, row.at_most if row.whole else None)
        sums.repaired += publisher.repaired
        sums.given_up += publisher.given_up
        sums.counted += publisher.said.datagrams if publisher.counted and publisher.said else 0
        del state.publishers[publisher.number]
        for group in state.groups.values():
            state.rows -= len(group.rows.pop(publisher.number, ()))

    def end(self, topic: int, group: str) -> None:
        """The ledger is about to forget a group that nobody is in any more."""
        state = self._topics.get(topic)
        if state is not None and group in state.groups:
            self._end(topic, state, group)

    def _end(self, topic: int, state: _Topic, name: str) -> None:
        """Keep what a group that ended knows of each publisher, and forget the group."""
        view = self._view(state.groups[name], self._undelivered(topic, name))
        for publisher in state.publishers.values():
            bounds = view.bounds(publisher)
            if bounds is not None:
                publisher.floor = max(publisher.floor, bounds.at_least)
                if bounds.whole and bounds.settled and publisher.final:
                    ceiling = bounds.at_most if publisher.ceiling is None else publisher.ceiling
                    publisher.ceiling = min(ceiling, bounds.at_most)
        state.rows -= sum(map(len, state.groups[name].rows.values()))
        del state.groups[name]

    def _view(self, group: Listening, undelivered: Undelivered) -> View:
        clients = [holder for holder in group.present if holder.client is not None]
        return View(
            group,
            undelivered,
            told_at=min((self._complete.get(holder, 0.0) for holder in clients), default=0.0),
            missed=sum(group.members[holder].missed for holder in clients),
            unfollowed=group.slack + sum(member.unfollowed for member in group.members.values()),
        )

    def _views(self, state: _Topic, undelivered: Callable[[str], Undelivered]) -> dict[str, View]:
        return {name: self._view(group, undelivered(name)) for name, group in state.groups.items()}

    # --- the account ------------------------------------------------------------------------

    def account(self, topic: int, received: int, undelivered: Mapping[str, Undelivered]) -> PublishersAccount:
        """The account of a topic as of now; ``received``: datagrams that reached the broker."""
        state = self._topics.get(topic, _Topic())
        views = self._views(state, lambda name: undelivered.get(name, Undelivered(0, 0)))
        rows = [publisher_row(publisher, views, received) for publisher in state.publishers.values()]
        counted = state.forgotten.counted + sum(
            each.said.datagrams for each in state.publishers.values() if each.counted and each.said
        )
        at_least = state.forgotten.at_least + sum(row.at_least for row in rows)
        mosts = [state.forgotten.at_most, *(row.at_most if row.whole else None for row in rows)]
        known = [most for most in mosts if most is not None]
        at_most = sum(known) if len(known) == len(mosts) and not state.unfollowed else None
        # More were sent than came in, whoever's they were.
        at_least = max(at_least, counted - received)
        return PublishersAccount(
            tuple(rows),
            state.forgotten.publishers,
            len(state.unfollowed),
            state.forgotten.sent + sum(row.sent for row in rows),
            at_least,
            None if at_most is None else max(at_most, at_least),
            all(row.settled for row in rows),
            state.forgotten.repaired + sum(row.repaired for row in rows),
            state.forgotten.given_up + sum(row.given_up for row in rows),
        )

    # --- from one life to the next ----------------------------------------------------------

    def export(self, topic: int, now: float) -> dict[str, Any] | None:
        """What is to be known in another life, as JSON values; None if there is nothing.

        Members tell again what they got; but those that left cannot.
        """
        state = self._topics.get(topic)
        if state is None or not (state.publishers or state.forgotten.publishers):
            return None
        rows = [
            [
                each.number, list(each.said) if each.said else None, now - each.said_at, each.ip, each.final,
                None if each.began is None else now - each.began, each.floor, each.ceiling,
            ]
            for each in state.publishers.values()
        ]  # fmt: skip
        sums = state.forgotten
        heard = [[name, *group.export(STORED)] for name, group in state.groups.items()
                 if group.until is None and group.rows]  # fmt: skip
        return {
            "rows": rows,
            "forgotten": [sums.publishers, sums.sent, sums.at_least, sums.at_most],
            "again": [
                [sums.repaired, sums.given_up],
                *([each.repaired, each.given_up] for each in state.publishers.values()),
            ],
            **({"heard": heard} if heard else {}),
        }

    def restore(self, topic: int, stored: Mapping[str, Any], now: float) -> None:
        """Go on with an exported account; raises KeyError, TypeError or ValueError for what is none."""
        state = self._topics[topic] = _Topic()
        for number, said, said_ago, ip, final, began_ago, floor, ceiling in stored["rows"][:PUBLISHERS]:
            publisher = Followed(int(number), changed=now, floor=int(floor))
            publisher.said = None if said is None else Sent(*map(int, said))
            publisher.said_at = now - float(said_ago)
            publisher.ip = None if ip is None else str(ip)
            publisher.final = bool(final)
            publisher.began = None if began_ago is None else now - float(began_ago)
            publisher.ceiling = None if ceiling is None else int(ceiling)
            state.version += 1
            publisher.version = state.version
            state.publishers[publisher.number] = publisher
        for name, slack, lacks, kept in stored.get("heard", ()):
            group = state.groups[str(name)] = Listening(now)
            group.restore(topic, str(name), int(slack), lacks, kept)
            state.rows += len(kept)
        again = [(int(repaired), int(given_up)) for repaired, given_up in stored.get("again", ())]
        for publisher, (repaired, given_up) in zip(state.publishers.values(), again[1:], strict=False):
            publisher.repaired, publisher.given_up = repaired, given_up
        count, sent, least, most = stored["forgotten"]
        state.forgotten = _Sums(
            publishers=int(count),
            sent=int(sent),
            at_least=int(least),
            at_most=None if most is None else int(most),
            repaired=again[0][0] if again else 0,
            given_up=again[0][1] if again else 0,
        )
