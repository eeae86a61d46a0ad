"""The data socket of a subscriber, lent to another process that reads it: what came is handed in here.

While it is lent nothing is read here. Whoever has it hands in each datagram, in the order in which they came,
and before the broker is told what came.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tempos import _abi
from tempos._sockets import WatchingReader
from tempos.receiving.inbox import Event
from tempos.receiving.intake import Intake
from tempos.session import proof

#: Bytes of the socket's buffer that a small datagram takes.
_SMALLEST = 768
_U32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Borrower:
    """Who has a socket. ``report`` hands in what has come; ``void``: it is not the one any more."""

    report: Callable[[], None]
    void: Callable[[], None]


class Loan:
    """A socket that is lent. Its events are all of the topic ``topic``, narrow and in clear."""

    def __init__(self, topic: int, name: str, reader: WatchingReader, intake: Intake, to: Borrower) -> None:
        self.topic = topic
        self.name = name
        self._reader = reader
        self._intake = intake
        self._to = to
        self._is_over = False
        reader.pause()
        intake.before_report = to.report

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._reader.fileno()

    def hand_in(self, datagram: bytes, at: int) -> list[Event]:
        """A datagram that came ``at``; gives the events in it that are to be handed out."""
        if self._intake.doorman.expects_proof and proof.decode(datagram) is not None:
            # Nobody here knows where it comes from. It is asked for again, and then read here.
            return []
        self._intake.receive(datagram, at)
        inbox = self._intake.inbox
        events = []
        while (event := inbox.take()) is not None:
            events.append(event)
        return events

    def account(
        self, count: int, size: int, epoch: int, delivery: int, publisher: int, sequence: int
    ) -> bool:
        """Account so many events that are not handed out, each the next one of its publisher and delivery.

        In all ``size`` bytes; the numbers are the first one's. False: each is to be handed in by itself.
        """
        intake = self._intake
        feed = intake.feeds.narrow[self.topic]
        source = None if feed is None else feed.source_of(publisher)
        if (
            feed is None
            or source is None
            or sequence != source.expected
            or max(sequence, delivery) + count > _U32
            or intake.doorman.expects_proof
            or intake.inbox.processed is not None
            or intake.inbox.annexed is not None
            or not intake.inbox.has_room(1)
            or not feed.tracker.see_run(epoch, delivery, count)
        ):
            return False
        source.expected = sequence + count
        intake.passed(feed, count, size)
        return True

    def is_wanted(self, most: int) -> bool:
        """Whether it is to be given back: more than ``most`` wait in it, or it matters where they come from.

        How many wait is not known, but what room they take, rather too much than too little.
        """
        if self._intake.doorman.expects_proof:
            return True
        try:
            waits, _, _ = self._reader.memory()
        except OSError:
            return True
        return bool(waits > most * _SMALLEST)

    def void(self) -> None:
        """The socket is not the subscriber's any more."""
        if not self._is_over:
            self._is_over = True
            self._to.void()

    def end(self) -> None:
        """Read here again."""
        self._intake.before_report = None
        if not self._is_over:
            self._is_over = True
            self._reader.resume()


class Lender(Protocol):
    """A subscriber."""

    _intake: Intake


def reads_single(subscriber: Lender) -> None:
    """Ask for no buffers with several datagrams in them: whoever borrows the socket may not know of these."""
    subscriber._intake.takes_joined = None


def redelivers(subscriber: Lender) -> bool:
    """Whether what it has not processed goes to others when it is gone."""
    intake = subscriber._intake
    return intake.inbox.processed is not None and any(feed.redelivers for feed in intake.feeds)


def lend(reader: object, intake: Intake, to: Borrower) -> Loan | None:
    """Lend the socket of ``reader``, unless there is something that only who reads here can do."""
    feeds = list(intake.feeds)
    if not isinstance(reader, WatchingReader) or len(feeds) != 1 or not intake.is_quiet:
        return None
    (feed,) = feeds
    if not feed.is_event or feed.decryptor is not None or feed.id >= _abi.WIDE:
        return None
    if feed.mended is not None or feed.redelivers:
        return None
    return Loan(feed.id, feed.name, reader, intake, to)
