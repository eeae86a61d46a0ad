"""What a broker knows of its fleet: the registry's content as far as it has heard. Values only, no I/O."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from tempos_broker.account.accounts import Holder
from tempos_broker.fleet import rows
from tempos_broker.fleet.registry import Change, Entry, Write
from tempos_broker.fleet.rows import BrokerRow, Drained, MadeRow, MemberRow, Progress


class Made:
    """What was made at run time of a kind, and what was removed, by name; and of which there was news."""

    def __init__(self, kind: str) -> None:
        self.rows: dict[str, MadeRow] = {}
        self.changed: set[str] = set()
        self._kind = kind
        #: By what claims it, who has it; several only where brokers had them before they were in the fleet.
        self._owners: dict[str, set[str]] = {}

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(row.document is not None for row in self.rows.values())

    def take(self, name: str, row: MadeRow | None) -> None:
        """It is told otherwise than before, or (None) of no more."""
        if row == self.rows.get(name):
            return
        self.changed.add(name)
        self.put(name, row)

    def put(self, name: str, row: MadeRow | None) -> None:
        """It is so from now on."""
        before = self.rows.pop(name, None)
        for key in self._owned(before):
            self._owners[key].discard(name)
            if not self._owners[key]:
                del self._owners[key]
        if row is not None:
            self.rows[name] = row
        for key in self._owned(row):
            self._owners.setdefault(key, set()).add(name)

    def others_have(self, name: str, keys: Collection[str]) -> list[str]:
        """Which of these keys claim what another one has."""
        return [key for key in keys if self._owners.get(key, set()) - {name}]

    def _owned(self, row: MadeRow | None) -> Collection[str]:
        return () if row is None or row.document is None else rows.owned(self._kind, row.document)


class View:
    """Of one broker; ``revision``: up to which it has heard of everything."""

    def __init__(self) -> None:
        self.revision = 0
        self.brokers: dict[str, BrokerRow] = {}
        self.members: dict[Holder, MemberRow] = {}
        #: Those that have found another home since they were looked at last, wherever they are now.
        self.moved: set[Holder] = set()
        #: By key: the revision that wrote it.
        self.written: dict[str, int] = {}
        #: How far each broker is with what concerns all.
        self.progress: dict[str, Progress] = {}
        #: Brokers that are taken out of service, and how far each is.
        self.drains: dict[str, Drained] = {}
        #: Topics and clients that were made at run time, by what their keys begin with.
        self.made = {kind: Made(kind) for kind in rows.MADE}
        #: Grows with each change of who is in the fleet.
        self.changes = 0
        #: Values that made no sense.
        self.malformed = 0

    def replace(self, revision: int, entries: Mapping[str, Entry]) -> set[Holder]:
        """Go by a list of everything; members that are other than they were, or gone."""
        gone = [Change(key, None, revision) for key in self.written if key not in entries]
        new = [
            Change(key, entry.value, entry.revision)
            for key, entry in entries.items()
            if self.written.get(key) != entry.revision
        ]
        changed = self.take([*gone, *new], listed=True)
        self.revision = revision
        return changed

    def take(self, changes: Iterable[Change], *, listed: bool = False) -> set[Holder]:
        """Go by changes; members that are other than they were, or gone.

        ``listed``: this is what there is, and no news from before something that was written here since.
        """
        changed: set[Holder] = set()
        for key, value, revision in changes:
            kind = key[: key.find("/") + 1]
            if not listed and kind in self.made and revision < self.written.get(key, 0):
                continue
            if value is None:
                self.written.pop(key, None)
            else:
                self.written[key] = revision
            if key.startswith(rows.MEMBERS):
                self._take_member(key, value, changed)
            elif key.startswith(rows.BROKERS):
                changed |= self._take_broker(key, value)
            elif key.startswith(rows.IN_FORCE):
                name = key.removeprefix(rows.IN_FORCE)
                known = None if value is None else rows.progress_in(value)
                self.progress.pop(name, None)
                if known is not None:
                    self.progress[name] = known
            elif key.startswith(rows.DRAINS):
                name = key.removeprefix(rows.DRAINS)
                self.drains.pop(name, None)
                if value is not None:
                    self.drains[name] = rows.drained_in(value)
            elif kind in self.made:
                self._take_made(kind, key.removeprefix(kind), value)
            self.revision = max(self.revision, revision)
        return changed

    def is_of_another(self, change: Change, me: str) -> bool:
        """Whether another broker than ``me`` wrote this, and may wait until it is in force everywhere."""
        if change.key.startswith(rows.MEMBERS):
            if change.value is None:
                # What was taken away here is known no more.
                return change.key in self.written
            row = rows.member_in(change.key, change.value)
            return row is None or row.home != me
        return not change.key.startswith((rows.IN_FORCE, rows.DRAINS, *rows.CLAIMS))

    def wrote(self, write: Write, at: int) -> bool:
        """Something was written here, and holds from the revision ``at`` on.

        False: that was heard already, and what came after it, so nothing is changed by it.
        """
        if at <= self.revision:
            return False
        if write.value is None:
            self.written.pop(write.key, None)
        else:
            self.written[write.key] = max(at, self.written.get(write.key, 0))
        return True

    def has_moved(self, holder: Holder) -> bool:
        """Whether it has found another home since this was asked last."""
        moved = holder in self.moved
        self.moved.discard(holder)
        return moved

    def wrote_member(self, holder: Holder, write: Write, at: int) -> None:
        """A member was written here, or taken away."""
        row = None if write.value is None else rows.member_in(write.key, write.value)
        if self.wrote(write, at):
            self.members.pop(holder, None)
            if row is not None:
                self.members[holder] = row

    def wrote_made(self, kind: str, name: str, value: bytes, at: int) -> None:
        """A topic or client was written here."""
        row = rows.made_in(kind, name, value)
        if self.wrote(Write(kind + name, value), at) and row is not None:
            self.made[kind].put(name, row)

    def _take_made(self, kind: str, name: str, value: bytes | None) -> None:
        row = None if value is None else rows.made_in(kind, name, value)
        self.malformed += value is not None and row is None
        self.made[kind].take(name, row)

    def _take_member(self, key: str, value: bytes | None, changed: set[Holder]) -> None:
        row = None if value is None else rows.member_in(key, value)
        holder = rows.holder_in(key) if row is None else row.holder
        if holder is None:
            self.malformed += 1
            return
        self.malformed += value is not None and row is None
        changed.add(holder)
        before = self.members.pop(holder, None)
        if row is not None:
            self.members[holder] = row
            if before is not None and before.home != row.home:
                self.moved.add(holder)

    def _take_broker(self, key: str, value: bytes | None) -> set[Holder]:
        """A broker is another one than it was; members to whom that matters."""
        name = key.removeprefix(rows.BROKERS)
        row = None if value is None else rows.broker_in(key, value)
        self.malformed += value is not None and row is None
        before = self.brokers.pop(name, None)
        if row is not None:
            self.brokers[name] = row
        self.changes += before != row
        if row is None or (before is not None and before.zone == row.zone):
            return set()
        return {holder for holder, each in self.members.items() if each.home == name}

    def confirmed(self, revision: int, but: str) -> int:
        """How many brokers, ``but`` one, say that they have a revision in force."""
        return sum(self.in_force(name) >= revision for name in self.brokers if name != but)

    def least_in_force(self, but: str) -> float:
        """The revision that all brokers, ``but`` one, say they have in force; infinite: there are none."""
        return min((self.in_force(name) for name in self.brokers if name != but), default=math.inf)

    def in_force(self, name: str) -> int:
        """The revision that a broker has in force; 0: none that is known."""
        return self.progress[name].revision if name in self.progress else 0

    def numbers(self) -> dict[int, BrokerRow]:
        """The brokers as clients know them."""
        return {row.number: row for row in self.brokers.values()}
