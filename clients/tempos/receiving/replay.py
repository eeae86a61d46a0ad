"""What a new member is given of the time before it, out of the broker's journals: gathered here, in order.

The broker tells on the control port which events it has just sent to the data socket, and how far that goes.
Those that do not come are asked for again, a few times. What came live meanwhile waits; it begins where this
ends, so nothing lies between the two and nothing is in both. No I/O but in :func:`replay`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from tempos import _abi, wire
from tempos._awaitables import in_time
from tempos.control import U64, Code, Replay
from tempos.errors import ControlRefused, LocalError, WireError
from tempos.receiving.feeds import Feed
from tempos.receiving.inbox import Inbox, Kept, new_event
from tempos.session import replayed

if TYPE_CHECKING:
    from tempos.receiving.intake import Intake
    from tempos.session.link import ControlLink

#: Topics that one request asks for.
TOGETHER = 16
#: Seconds for which events that the broker has sent may be on their way, and how often they are asked for.
UNDER_WAY, TRIES = 0.2, 5
#: Seconds before the broker is asked again that sends nothing just now.
PAUSE = 0.05

#: What is given first: the last event, so many, those that are no older; or nothing at all.
Start = Literal["last", "live"] | int | timedelta

_log = logging.getLogger("tempos.subscriber")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Of each topic the ``last`` events, none older than ``age_ms``; ``only_retained``: of such topics."""

    last: int = 1
    age_ms: int = U64
    only_retained: bool = True

    @classmethod
    def of(cls, start: Start | None, queue: int, *, encrypted: bool) -> Wanted:
        """What an application asked for; raises :class:`LocalError`."""
        if start is None:
            return cls()
        if start == "live":
            return cls(last=0)
        if encrypted:
            raise LocalError("start: what is encrypted is taken once, and soon, so not out of a journal")
        if isinstance(start, timedelta):
            if start <= timedelta():
                raise LocalError(f"start is {start}: how far to go back, more than 0")
            return cls(queue, round(start.total_seconds() * 1000), only_retained=False)
        last = 1 if start == "last" else start
        if type(last) is not int or not 1 <= last <= queue:
            raise LocalError(
                f"start is {start!r}, allowed: 'last', 'live', a timedelta, or a number from 1 to {queue}, "
                "which is what the queue holds"
            )
        return cls(last, only_retained=False)

    def choose(self, feeds: Iterable[Feed]) -> list[Feed]:
        """The topics that something is asked for; raises :class:`LocalError` where there should be one."""
        feeds = [feed for feed in feeds if feed.decryptor is None]
        if not self.last:
            return []
        if self.only_retained:
            return [feed for feed in feeds if feed.topic.retain]
        chosen = [feed for feed in feeds if feed.topic.journal]
        if feeds and not chosen:
            names = ", ".join(feed.name for feed in feeds[:3])
            raise LocalError(f"start: {names}: no journal, so nothing that was before is kept (journal = N)")
        return chosen


@dataclass(slots=True)
class _Course:
    """How far a topic has come: behind ``after``, where the events ``expected`` lead to ``next``."""

    feed: Feed
    after: int = 0
    next: int = 0
    more: bool = True
    gone: int = 0
    tries: int = 0
    expected: Sequence[int] = ()
    got: dict[int, bytes] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        return all(number in self.got for number in self.expected)


class Gathering:
    """The replay of some topics. :meth:`take` their events; events that are whole go into the ``inbox``."""

    def __init__(self, feeds: Iterable[Feed], wanted: Wanted, inbox: Inbox) -> None:
        self._courses = {feed.id: _Course(feed) for feed in feeds}
        self._wanted = wanted
        self._inbox = inbox
        self._asked: list[_Course] = []
        #: Datagrams that were handed out, and such that could not be had.
        self.came = self.gone = 0

    def requests(self) -> list[Replay]:
        """What to ask for next; nothing: all is there."""
        waiting = [each for each in self._courses.values() if each.more]
        self._asked = waiting[:TOGETHER]
        for each in self._asked:
            each.next = max(each.next, each.after)
        return [
            Replay(each.feed.id, each.after, self._wanted.last, self._wanted.age_ms) for each in self._asked
        ]

    def answered(self, fields: Mapping[str, Any]) -> bool:
        """What the broker has sent; whether that is anything. Raises :class:`WireError` for nonsense."""
        some = False
        for row in _rows(fields):
            topic, after, more, gone, numbers = row
            course = self._courses.get(topic)
            if course is None or course not in self._asked:
                continue
            some = some or bool(numbers) or after != course.after or not more
            known = set(course.expected)
            course.expected = [*course.expected, *(each for each in numbers if each not in known)]
            if not course.tries:
                course.gone = gone
            if after >= course.next:
                course.next, course.more = after, more
        return some

    def take(self, datagram: bytes) -> bool:
        """Whether this is an event of this replay; it is taken then."""
        told = replayed.decode(datagram)
        if told is None:
            return False
        course = self._courses.get(told.topic)
        if course is not None:
            course.got.setdefault(told.number, told.datagram)
        return True

    @property
    def is_whole(self) -> bool:
        """Whether all has come that the broker has sent."""
        return all(each.is_whole for each in self._asked)

    def settle(self, now: int) -> None:
        """Hand out what is whole, in its order, and what else there is where that was asked for often."""
        for course in self._asked:
            if not course.is_whole:
                course.tries += 1
                if course.tries < TRIES:
                    # The same again.
                    course.more = True
                    continue
            for number in course.expected:
                datagram = course.got.get(number)
                if datagram is None:
                    course.gone += 1
                elif not self._hand_out(course, datagram, now):
                    course.gone += 1
                    continue
                else:
                    self.came += 1
            self.gone += course.gone
            course.after, course.gone, course.tries = course.next, 0, 0
            course.expected = ()
            course.got.clear()
        self._asked = []

    def _hand_out(self, course: _Course, datagram: bytes, now: int) -> bool:
        feed = course.feed
        if not feed.is_event:
            fields = (feed.name, feed.id, datagram[feed.body_at :], None, None, None, None, None, now, 0)
            return self._inbox.put(new_event(Kept, fields))
        try:
            event = wire.decode_event(datagram)
            body = datagram[wire.body_at(datagram) :]
            bodies: Sequence[bytes] = wire.split_batch(body) if event.is_batch else [body]
        except WireError:
            return False
        flags = wire.flags_of(datagram)
        if flags & _abi.FLAG_TRACE:
            # Of no use to anybody any more.
            return True
        if flags & _abi.FLAG_ENVELOPE:
            bodies = [body[_abi.ENVELOPE_LEN :]]
        epoch = datagram[_abi.OFFSET_EPOCH]
        whole = True
        for number, each in enumerate(bodies):
            numbered = (
                feed.name, feed.id, each, event.publisher, (event.sequence + number) & 0xFFFFFFFF, None,
                epoch, event.sent_ns, now, 0,
            )  # fmt: skip
            whole &= self._inbox.put(new_event(Kept, numbered))
        return whole


async def replay(link: ControlLink, intake: Intake, port: int, wanted: Wanted) -> None:
    """Have what was before handed out first; raises what :meth:`ControlLink.ask` raises."""
    feeds = wanted.choose(intake.feeds)
    if not feeds:
        return
    gathering = Gathering(feeds, wanted, intake.inbox)
    came = asyncio.Event()

    def take(datagram: bytes) -> bool:
        if not gathering.take(datagram):
            return False
        if gathering.is_whole:
            came.set()
        return True

    intake.replay = take
    try:
        while requests := gathering.requests():
            came.clear()
            answer = await link.ask("replay", port=port, instance=link.instance, replays=requests)
            some = gathering.answered(answer.fields)
            if not gathering.is_whole:
                await _until(came, UNDER_WAY)
            elif not some:
                await _until(came, PAUSE)
            gathering.settle(time.time_ns())
    except ControlRefused as error:
        if error.code != Code.UNKNOWN_MEMBER:
            raise
        _log.warning("what the journals have is not had in whole: %s", error)
    finally:
        intake.replay = None
        intake.replayed += gathering.came
        intake.replay_gone += gathering.gone


async def _until(event: asyncio.Event, seconds: float) -> None:
    try:
        await in_time(event.wait(), seconds)
    except asyncio.TimeoutError:
        return


def _rows(fields: Mapping[str, Any]) -> Iterable[tuple[int, int, bool, int, list[int]]]:
    rows = fields.get("replayed")
    if not isinstance(rows, list):
        raise WireError("an answer that tells of no replay")
    for row in rows:
        if not isinstance(row, list) or len(row) != 5 or not isinstance(row[4], list):
            raise WireError("a replay that is none")
        topic, after, more, gone, numbers = row
        if not isinstance(more, bool) or any(
            type(each) is not int for each in (topic, after, gone, *numbers)
        ):
            raise WireError("a replay with numbers that are none")
        yield topic, after, more, gone, numbers
