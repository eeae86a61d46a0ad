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

#: The share of the socket's buffer that may wait in any case; bytes of it that a small datagram takes.
_LOW, _SMALLEST = 1 / 16, 768


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

    def is_wanted(self, most: int) -> bool:
        """Whether it is to be given back: more than ``most`` wait in it, or it matters where they come from.

        How many wait is not known, but what room they take.
        """
        if self._intake.doorman.expects_proof:
            return True
        try:
            waits, room, _ = self._reader.memory()
        except OSError:
            return True
        return bool(waits > min(room * _LOW, most * _SMALLEST))

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
