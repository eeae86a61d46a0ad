"""What of a topic members were sent and have processed: by epoch and client, until it is settled.

Without I/O. An epoch is remembered until all that was sent in it is known to be processed, or went into lots.
A client is known by the number that it chose at its start: it stays the same one where it moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tempos.redelivery.spans import Spans
from tempos_broker.account.accounts import Holder, share
from tempos_broker.redelivery.aside import Run
from tempos_broker.redelivery.lots import Event, Kept, Piece

#: Epochs of a topic that are remembered at most: what is owed of older ones is given up, and told.
KEPT = 4096

#: By group: its name, and who was in it, in the order of the route; None: somebody who tells nothing.
Seats = tuple[tuple[str, tuple["int | None", ...]], ...]


@dataclass(slots=True)
class Epoch:
    """``first``: where it begins in the journal. ``tickets``: of each group, once that is final."""

    first: int
    seats: Seats
    tickets: tuple[int, ...] | None = None
    #: What clients have processed; those that are in none of the two are owed all that they were sent.
    done: dict[int, Spans] = field(default_factory=dict)
    #: Clients that nothing is owed any more: it was all processed, or is in a lot.
    settled: set[int] = field(default_factory=set)
    #: Of others deliveries that they have not processed, and that the journal is about to lose.
    aside: dict[int, Kept] = field(default_factory=dict)

    def clients(self) -> Iterator[int]:
        """Those that are not settled."""
        for _, members in self.seats:
            yield from (each for each in members if each is not None and each not in self.settled)

    def seat(self, client: int) -> tuple[int, int, int] | None:
        """Where a client was: group, place, of so many."""
        for group, (_, members) in enumerate(self.seats):
            if client in members:
                return group, members.index(client), len(members)
        return None

    def sent(self, client: int) -> int:
        """How many deliveries a client was sent in all."""
        seat = self.seat(client)
        if seat is None or self.tickets is None:
            return 0
        group, place, members = seat
        return share(self.tickets[group], place, members)

    def unprocessed(self, number: int, tickets: Sequence[int]) -> Iterator[Run]:
        """Of each client what it is not known to have processed, beyond what was looked at.

        ``number``: of this epoch; ``tickets``: so many were drawn by now of each group.
        """
        for group, (_, members) in enumerate(self.seats):
            for place, client in enumerate(members):
                if client is not None and client not in self.settled:
                    kept = self.aside.setdefault(client, Kept())
                    spans = self.done.get(client, Spans()).lacks(share(tickets[group], place, len(members)))
                    yield kept, self._events(number, group, place, len(members), kept.looked, spans)

    def _events(
        self, number: int, group: int, place: int, members: int, begin: int, spans: Iterable[tuple[int, int]]
    ) -> Iterator[tuple[int, Event]]:
        for first, end in spans:
            for sequence in range(max(first, begin), end):
                yield sequence, Event(number, self.first, group, sequence * members + place)

    def settle(self, client: int) -> Kept:
        """Nothing is owed a client any more; what was kept aside of it."""
        self.settled.add(client)
        self.done.pop(client, None)
        return self.aside.pop(client, None) or Kept()


class Owed:
    """One topic."""

    def __init__(self) -> None:
        self.epochs: dict[int, Epoch] = {}

    def opened(self, epoch: int, first: int, groups: Iterable[tuple[str, Sequence[Holder]]]) -> int:
        """An epoch is about to be in force, or is again; how many deliveries are given up for that."""
        known = self.epochs.get(epoch)
        if known is not None:
            # Of an epoch before the latest a journal does not say it any more.
            known.first = first or known.first
            return 0
        seats = tuple((name, tuple(holder.client for holder in holders)) for name, holders in groups)
        self.epochs[epoch] = Epoch(first, seats)
        given_up = 0
        while len(self.epochs) > KEPT:
            oldest = self.epochs.pop(next(iter(self.epochs)))
            given_up += sum(
                end - first
                for client in oldest.clients()
                for first, end in oldest.done.get(client, Spans()).lacks(oldest.sent(client))
            )
        return given_up

    def closed(self, epoch: int, tickets: Sequence[int]) -> None:
        """Of an epoch no tickets are drawn any more."""
        known = self.epochs.get(epoch)
        if known is not None and known.tickets is None:
            known.tickets = tuple(tickets)
            for client in list(known.clients()):
                self._settle(epoch, known, client)
            # Where there was nobody nobody is waited for.
            self._tidy(epoch)

    def processed(self, client: int, epoch: int, first: int, number: int) -> bool:
        """A client has processed so many deliveries from ``first`` on; whether that is news."""
        known = self.epochs.get(epoch)
        if known is None or client in known.settled or known.seat(client) is None:
            return False
        news = known.done.setdefault(client, Spans()).add(first, first + number)
        if (kept := known.aside.get(client)) is not None:
            kept.forget(first, first + number)
        if news and known.tickets is not None:
            self._settle(epoch, known, client)
        return news

    def _settle(self, epoch: int, known: Epoch, client: int) -> None:
        done = known.done.get(client)
        if next((done or Spans()).lacks(known.sent(client)), None) is None:
            known.settle(client)
            self._tidy(epoch)

    def _tidy(self, epoch: int) -> None:
        known = self.epochs.get(epoch)
        if known is not None and known.tickets is not None and next(known.clients(), None) is None:
            del self.epochs[epoch]

    def clients(self) -> set[int]:
        """Those to whom anything may be owed."""
        return {client for epoch in self.epochs.values() for client in epoch.clients()}

    def groups(self) -> set[str]:
        """Those in which anybody was to whom anything may be owed."""
        return {name for epoch in self.epochs.values() for name, _ in epoch.seats}

    def is_open(self, client: int) -> bool:
        """Whether a client is in an epoch in which tickets are drawn."""
        return any(each.tickets is None and each.seat(client) for each in self.epochs.values())

    def take(self, client: int) -> tuple[str, list[Piece], Kept]:
        """What a client that is gone is owed, in order, and its group; it is owed nothing from now on.

        With what of it is kept aside, by its place in all.
        """
        pieces: list[Piece] = []
        aside = Kept()
        name, at = "", 0
        for number, epoch in sorted(self.epochs.items()):
            seat = epoch.seat(client)
            if seat is None or client in epoch.settled or epoch.tickets is None:
                continue
            group, place, members = seat
            name = epoch.seats[group][0]
            spans = list(epoch.done.get(client, Spans()).lacks(epoch.sent(client)))
            kept = epoch.settle(client)
            for first, end in spans:
                pieces.append(Piece(number, epoch.first, group, place, members, first, end))
                for sequence in kept.within(first, end):
                    aside.put(at + sequence - first, kept.take(sequence))
                at += end - first
            self._tidy(number)
        return name, pieces, aside

    def unprocessed(self, drawn: Callable[[int, int], int]) -> Iterator[Iterator[Run]]:
        """Of each epoch, the oldest first, what is not known to be processed and was not looked at.

        ``drawn``: tickets as they stand, by epoch and group.
        """
        for number, epoch in self.epochs.items():
            if not epoch.first:
                continue
            groups = range(len(epoch.seats))
            tickets = epoch.tickets
            now = [drawn(number, group) for group in groups] if tickets is None else tickets
            yield epoch.unprocessed(number, now)

    def kept(self) -> Iterator[Kept]:
        """What is kept aside of deliveries that are in no lot."""
        for epoch in self.epochs.values():
            yield from epoch.aside.values()

    @property
    def oldest(self) -> int:
        """Of epochs before this one nothing has to be told."""
        return min(self.epochs, default=0)

    @property
    def latest(self) -> tuple[int, int] | None:
        """The epoch in which tickets are drawn, and where it begins; None: there is none."""
        for number, epoch in reversed(self.epochs.items()):
            if epoch.tickets is None:
                return number, epoch.first
        return None

    def export(self) -> list[Any]:
        """As JSON values."""
        return [
            [
                number, epoch.first, epoch.seats, epoch.tickets,
                [[client, done.all] for client, done in epoch.done.items()], sorted(epoch.settled),
            ]
            for number, epoch in self.epochs.items()
        ]  # fmt: skip

    @classmethod
    def load(cls, stored: Any) -> Owed:
        """The same again; raises KeyError, TypeError or ValueError for what is none."""
        owed = cls()
        for number, first, seats, tickets, done, settled in stored:
            known = owed.epochs[int(number)] = Epoch(
                int(first),
                tuple(
                    (str(name), tuple(None if each is None else int(each) for each in members))
                    for name, members in seats
                ),
                None if tickets is None else tuple(map(int, tickets)),
                {int(client): Spans((int(a), int(b)) for a, b in spans) for client, spans in done},
                set(map(int, settled)),
            )
            if known.tickets is not None and len(known.tickets) != len(known.seats):
                raise ValueError("an epoch whose groups and tickets differ")
            owed._tidy(int(number))
        return owed
