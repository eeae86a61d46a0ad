"""What of one topic is owed and to be handed out again: epochs, lots, who takes them, the account. No I/O."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tempos_broker.account.accounts import Holder, Orphans, holder_of
from tempos_broker.redelivery.aside import Run
from tempos_broker.redelivery.lots import Kept, Lot
from tempos_broker.redelivery.owed import Owed

_U32 = 0xFFFFFFFF
#: Under which the ledger has the sum of all groups that nobody is in any more.
FORMER = "~"
#: Seconds within which a member that tells what it has processed has said so for the first time, however busy
#: it is; clients of which it is known that they do.
SPEAKS_BY, SPEAKERS = 5.0, 4096


class Listener(NamedTuple):
    """Who takes what is handed out again, and by which address of ours it is told (None: any)."""

    holder: Holder
    via: str | None


class TopicOwed:
    """Of one topic."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: Whether the state does not say it as it is now.
        self.changed = True
        self._owed = Owed()
        #: In the order in which they are handed out.
        self._lots: list[Lot] = []
        self._next = secrets.randbits(32)
        self._listeners: dict[int, Listener] = {}
        self._holders: dict[int, Holder] = {}
        self._left: dict[int, float] = {}
        self._last: set[int] = set()
        # Also of those that were taken to be gone: they may come back.
        self._speak: dict[int, None] = {}
        # Since when clients are members.
        self._since: dict[int, float] = {}
        #: By group: orphaned, redelivered, lapsed.
        self._counts: dict[str, list[int]] = {}
        self._told: dict[str, int] = {}

    # --- epochs -------------------------------------------------------------------------------

    def opened(
        self, epoch: int, first: int, groups: Iterable[tuple[str, Sequence[Holder]]], now: float
    ) -> int:
        """See :meth:`Owed.opened`."""
        groups = list(groups)
        for _, members in groups:
            for holder in members:
                if holder.client is not None:
                    self._holders[holder.client] = holder
                    self._since.setdefault(holder.client, now)
                    self._left.pop(holder.client, None)
                    self._last.discard(holder.client)
        self.changed = True
        return self._owed.opened(epoch, first, groups)

    def is_open(self, epoch: int) -> bool:
        """Whether an epoch is remembered whose tickets are not final."""
        known = self._owed.epochs.get(epoch)
        return known is not None and known.tickets is None

    def closed(self, epoch: int, tickets: Sequence[int]) -> None:
        """See :meth:`Owed.closed`."""
        self._owed.closed(epoch, tickets)
        self.changed = True

    def only_open(self, epoch: int) -> bool:
        """Epochs but this one are over; whether there were others whose tickets nobody knows any more."""
        others = [number for number in self._owed.epochs if number != epoch and self.is_open(number)]
        for number in others:
            del self._owed.epochs[number]
            self.changed = True
        return bool(others)

    @property
    def oldest(self) -> int:
        """See :attr:`Owed.oldest`."""
        return self._owed.oldest

    @property
    def latest(self) -> tuple[int, int] | None:
        """The epoch in which tickets are drawn, and where it begins in the journal; None: there is none."""
        return self._owed.latest

    # --- what members say -----------------------------------------------------------------------

    def speaks(self, client: int) -> None:
        """A client says what it has processed."""
        if client not in self._speak:
            self._speak[client] = None
            while len(self._speak) > SPEAKERS:
                del self._speak[next(iter(self._speak))]
            self.changed = True

    def does_speak(self, client: int) -> bool:
        """Whether a client has ever said anything of what it has processed, or was not there for long enough.

        Of that one nobody knows whether it would have.
        """
        return client in self._speak or self._left[client] - self._since.get(client, 0.0) < SPEAKS_BY

    def forgive(self, client: int) -> None:
        """A client that is gone is owed nothing."""
        self._owed.take(client)
        self._gone(client)

    def listens(self, client: int, holder: Holder, via: str | None) -> None:
        """A member takes what is handed out again."""
        self._listeners[client] = Listener(holder, via)

    def processed(self, client: int, epoch: int, first: int, number: int) -> None:
        """See :meth:`Owed.processed`."""
        if self._owed.processed(client, epoch, first, number):
            self.changed = True

    def said_last(self, client: int) -> None:
        """A member that has left says that it will process no more."""
        self._last.add(client)

    def held_by(self, client: int) -> Lot | None:
        """The lot that a member has."""
        return next((lot for lot in self._lots if lot.taker == client), None)

    def lot_of(self, client: int, group: str) -> Lot | None:
        """What a member has, or takes now: the oldest lot of its group that nobody has; None: nothing."""
        mine = self.held_by(client)
        if mine is None:
            mine = next((lot for lot in self._lots if lot.taker is None and lot.group == group), None)
            if mine is not None:
                mine.taker = client
                self.changed = True
        return mine

    def finish(self, lot: Lot, done: int) -> None:
        """So many of a lot are done with."""
        before = lot.done
        processed, gone = lot.finish(done)
        counts = self._counts_of(lot.group)
        counts[1] += processed
        counts[2] += gone
        if not lot.left:
            self._lots.remove(lot)
        if lot.done != before:
            self.changed = True

    # --- who is gone ----------------------------------------------------------------------------

    def absent(self, present: Mapping[int, str], now: float) -> list[int]:
        """Those that are in no route any more and are owed something, or have a lot.

        Of those that are gone and are owed nothing nothing is remembered but that they speak.
        """
        concerned = self._owed.clients() | {lot.taker for lot in self._lots if lot.taker is not None}
        absent = [each for each in concerned if each not in present and not self._owed.is_open(each)]
        for client in absent:
            self._left.setdefault(client, now)
        known = self._holders.keys() | self._listeners.keys() | self._left.keys() | self._last
        for client in known - concerned - present.keys():
            self._gone(client)
        return absent

    def holder(self, client: int) -> Holder | None:
        """Where a client was last."""
        return self._holders.get(client)

    def left_at(self, client: int) -> float:
        """When it was found to be absent."""
        return self._left[client]

    def has_said_last(self, client: int) -> bool:
        """Whether it is known that it processes no more."""
        return client in self._last

    def hand_over(self, client: int) -> Lot | None:
        """A client is gone: what it had is free again, and what it is owed a lot."""
        for lot in self._lots:
            if lot.taker == client:
                lot.taker = None
        self._gone(client)
        group, pieces, aside = self._owed.take(client)
        if not pieces:
            return None
        lot = Lot(self._next, group, pieces, aside=aside)
        self._next = (self._next + lot.size) & _U32
        self._lots.append(lot)
        self._counts_of(group)[0] += lot.size
        return lot

    def _gone(self, client: int) -> None:
        for known in (self._listeners, self._holders, self._left, self._since):
            known.pop(client, None)
        self._last.discard(client)
        self.changed = True

    # --- who is told ----------------------------------------------------------------------------

    @property
    def lots(self) -> Sequence[Lot]:
        """Those that are not done with, in the order in which they are handed out."""
        return self._lots

    @property
    def kept_aside(self) -> int:
        """How many events were copied out of the journal and are not known to be processed."""
        return sum(map(len, self._kept()))

    @property
    def bytes_aside(self) -> int:
        """How much memory they take."""
        return sum(kept.size for kept in self._kept())

    def _kept(self) -> Iterator[Kept]:
        yield from (lot.aside for lot in self._lots)
        yield from self._owed.kept()

    def unprocessed(self, drawn: Callable[[int, int], int]) -> Iterator[Iterator[Run]]:
        """See :meth:`Owed.unprocessed`."""
        return self._owed.unprocessed(drawn)

    def untaken_lots(self) -> list[Lot]:
        """The lots that nobody has."""
        return [lot for lot in self._lots if lot.taker is None]

    def untaken(self) -> Iterator[tuple[str, int]]:
        """Of which groups nobody has lots, and how many."""
        yield from Counter(lot.group for lot in self.untaken_lots()).items()

    def lapsed_since(self) -> list[tuple[str, int]]:
        """Of which groups events were not to be had since this was asked last, and how many in all."""
        news = [(group, counts[2]) for group, counts in self._counts.items()
                if counts[2] != self._told.get(group, 0)]  # fmt: skip
        self._told.update(news)
        return news

    def free_listeners(self, group: str, present: Mapping[int, str]) -> list[tuple[int, Holder, str | None]]:
        """The members of a group that take lots and have none; each time another one first."""
        busy = {lot.taker for lot in self._lots}
        free = [
            (client, *listener)
            for client, listener in self._listeners.items()
            if present.get(client) == group and client not in busy
        ]
        if free:
            # Who was told has its turn behind the others.
            self._listeners[free[0][0]] = self._listeners.pop(free[0][0])
        return free

    @property
    def is_busy(self) -> bool:
        """Whether anything may change by time alone."""
        return bool(self._left) or self.changed or any(lot.taker is not None for lot in self._lots)

    # --- the account ----------------------------------------------------------------------------

    def accounts(self) -> dict[str, Orphans]:
        """Of each group of which anything was handed over."""
        pending: dict[str, int] = {}
        for lot in self._lots:
            pending[lot.group] = pending.get(lot.group, 0) + lot.left
        return {
            group: Orphans(orphaned, redelivered, pending.get(group, 0), lapsed)
            for group, (orphaned, redelivered, lapsed) in self._counts.items()
        }

    def tidy(self, present: Iterable[str]) -> None:
        """Counts of groups in which nobody is any more, and that left nothing behind, go into one sum."""
        kept = {*present, FORMER, *(lot.group for lot in self._lots), *self._owed.groups()}
        for group in self._counts.keys() - kept:
            self._told.pop(group, None)
            sums = self._counts_of(FORMER)
            sums[:] = map(sum, zip(sums, self._counts.pop(group), strict=True))
            self._told[FORMER] = sums[2]
            self.changed = True

    def _counts_of(self, group: str) -> list[int]:
        return self._counts.setdefault(group, [0, 0, 0])

    def export(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "epochs": self._owed.export(),
            "lots": [lot.export() for lot in self._lots],
            "holders": [list(holder) for holder in self._holders.values()],
            "speak": list(self._speak),
            "counts": list(self._counts.items()),
        }

    @classmethod
    def load(cls, stored: Any) -> TopicOwed:
        """The same again; raises KeyError, TypeError or ValueError for what is none."""
        topic = cls(str(stored["name"]))
        topic._owed = Owed.load(stored["epochs"])
        topic._lots = [Lot.load(each) for each in stored["lots"]]
        for each in stored["holders"]:
            holder = holder_of(each)
            if holder.client is not None:
                topic._holders[holder.client] = holder
        topic._speak.update(dict.fromkeys(map(int, stored["speak"])))
        for group, (orphaned, redelivered, lapsed) in stored["counts"]:
            topic._counts[str(group)] = [int(orphaned), int(redelivered), int(lapsed)]
            topic._told[str(group)] = int(lapsed)
        return topic
