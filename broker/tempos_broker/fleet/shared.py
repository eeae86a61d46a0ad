"""What is made at run time, and a fleet has together: what is ordered at one broker is carried out at all.

Rules: an order is carried out here first, so that it is checked against all that holds here, and then written
for the others; where that cannot be written, or another broker was faster, it is undone. What a thing has to
itself besides its name is claimed before that (:mod:`.claims`). What is removed leaves a mark, so that a
broker that was away meanwhile does not bring it back; what the store has never heard of is told to it. What
the others ordered and cannot be had here is told, and tried again.
"""

from __future__ import annotations

import abc
import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from tempos.errors import TemposError, one_line
from tempos_broker.account.changes import Changes, Kind
from tempos_broker.fleet import rows
from tempos_broker.fleet.claims import Claims
from tempos_broker.fleet.fleet import Fleet
from tempos_broker.fleet.registry import AT_ONCE, Away, LeaseGone, Registry, Write
from tempos_broker.tasks import whole
from tempos_broker.topics.locks import KeyedLocks
from tempos_broker.topics.orders import Conflict, NotKept

#: Seconds that an order waits until all brokers have it, and after which what failed is tried again.
SETTLED_BY, AGAIN = 2.0, 5.0
#: What to do where an order came to nothing for the store is away.
UNCHANGED = "nothing was changed; ask again when `tempos fleet status` finds it"

_T = TypeVar("_T")


class Shared(abc.ABC):
    """Things of one kind, by name. What it leaves open is what there is at this broker, and orders there."""

    #: What their keys begin with, and what one is called.
    kind: ClassVar[str]
    word: ClassVar[str]
    #: Seconds after which the mark of what was removed goes: who was away for longer tells of it again.
    forgotten: ClassVar[float]

    def __init__(
        self, fleet: Fleet, store: Registry, changes: Changes, clock: Callable[[], float] = time.time
    ) -> None:
        self._fleet = fleet
        self._view = fleet.view
        self._told = fleet.view.made[self.kind]
        self._store = store
        self._changes = changes
        self._clock = clock
        self._claims = Claims(self.word, self._told, fleet, store)
        self._names: KeyedLocks[str] = KeyedLocks()
        self._again_at = 0.0
        #: Those of the fleet that are not had here as they are there, and why.
        self.lacking: dict[str, str] = {}
        self._told.changed.update(self._told.rows)
        fleet.shares[self.kind] = self

    # --- what there is here -----------------------------------------------------------------

    @abc.abstractmethod
    def _made(self) -> Iterable[str]:
        """All that were made at run time."""

    @abc.abstractmethod
    def _is_made(self, name: str) -> bool:
        """Whether there is one of this name, made at run time."""

    @abc.abstractmethod
    def _document(self, name: str) -> dict[str, Any] | None:
        """The options of the one of this name, whoever made it."""

    @abc.abstractmethod
    async def _make(self, document: dict[str, Any]) -> object:
        """Make one here."""

    @abc.abstractmethod
    async def _become(self, name: str, document: dict[str, Any]) -> object:
        """Have the one of this name here with these options, whatever it is now."""

    @abc.abstractmethod
    async def _take_out(self, name: str) -> object:
        """Remove one here, made at run time."""

    # --- orders -----------------------------------------------------------------------------

    async def _adding(
        self, name: object, order: Callable[[], Awaitable[_T]], undo: Callable[[str], Awaitable[object]]
    ) -> _T:
        """Make one by ``order``, and tell it."""
        known = name if isinstance(name, str) else ""
        return await self._ordered(known, order, lambda _: undo(known))

    async def _changing(self, name: str, order: Callable[[], Awaitable[_T]]) -> _T:
        """Change one by ``order``, and tell it."""
        return await self._ordered(name, order, lambda before: self._become(name, before))

    async def _ordered(
        self,
        name: str,
        order: Callable[[], Awaitable[_T]],
        undo: Callable[[dict[str, Any]], Awaitable[object]],
    ) -> _T:
        async with self._names.one(name):
            self._require_store()
            before, expect = self._document(name), self._view.written.get(self.kind + name, 0)
            self._check_is_as_told(name, before)
            try:
                done = await order()
                revision = await self._tell(name, before or {}, expect)
            except BaseException:
                await whole(self._put_back(name, before, undo))
                raise
        await self._fleet.wait_for(revision, SETTLED_BY)
        return done

    def _check_is_as_told(self, name: str, before: dict[str, Any] | None) -> None:
        """What is changed is what the fleet has: else another broker's order would be undone by that."""
        if not self._is_there(name):
            return
        if before is None:
            raise Conflict(
                f"the fleet has {self.word} {name!r} already, though not this broker as yet",
                "take another name, or change that one at a broker that has it",
            )
        if self._is_made(name) and before != self._told.rows[name].document:
            raise Conflict(
                f"{self.word} {name!r} was changed at another broker of the fleet, though not here as yet",
                "ask again, or change it at a broker that has it so",
            )

    async def _put_back(
        self,
        name: str,
        before: dict[str, Any] | None,
        undo: Callable[[dict[str, Any]], Awaitable[object]],
    ) -> None:
        """Have one as it was, whatever an order that came to nothing has made of it by now."""
        try:
            if self._document(name) != before:
                await undo(before or {})
        finally:
            self._look_again(name)

    async def _tell(self, name: str, before: Mapping[str, Any], expect: int) -> int:
        """Tell the others of one as it is now; the revision that has it."""
        document = self._document(name)
        assert document is not None
        had, has = rows.owned(self.kind, before), rows.owned(self.kind, document)
        wanted = {key: words for key, words in has.items() if key not in had}
        try:
            async with self._claims.held(name, wanted) as given:
                return await self._write(name, rows.made(document), expect, given)
        except (Away, LeaseGone) as error:
            raise self._no_store(one_line(error), UNCHANGED) from error

    async def _removing(
        self, name: str, check: Callable[[], object], order: Callable[[], Awaitable[_T]]
    ) -> _T:
        """Tell that one is removed, then do so by ``order``; ``check`` raises where that cannot be."""
        async with self._names.one(name):
            self._require_store()
            check()
            await self._forget()
            expect = self._view.written.get(self.kind + name, 0)
            revision = await self._write(name, rows.removed(self._clock()), expect)
            try:
                done = await order()
            except BaseException:
                self._look_again(name)
                raise
        await self._fleet.wait_for(revision, SETTLED_BY)
        return done

    def _require_store(self) -> None:
        if self._fleet.away is not None:
            raise self._no_store(self._fleet.away, UNCHANGED)

    def _no_store(self, why: str, hint: str) -> NotKept:
        return NotKept(f"the registry of fleet {self._fleet.name!r} is away: {why}", hint)

    async def _write(self, name: str, value: bytes, expect: int, also: Sequence[Write] = ()) -> int:
        key = self.kind + name
        try:
            written = await self._store.write([Write(key, value, expect), *also], together=True)
        except Away as error:
            hint = "whether the others heard of it is not known; look when `tempos fleet status` finds it"
            raise self._no_store(one_line(error), hint) from error
        if written.refused:
            raise Conflict(
                f"{self.word} {name!r} was changed at another broker of the fleet at the same time",
                "nothing was changed here; look what it is now, and ask again",
            )
        self._view.wrote_made(self.kind, name, value, written.at[key])
        return written.revision

    async def _forget(self) -> None:
        """Take away marks of what was removed long ago."""
        now = self._clock()
        old = [
            Write(key, None, self._view.written.get(key, 0))
            for name, row in self._told.rows.items()
            if row.document is None and row.removed + self.forgotten < now and (key := self.kind + name)
        ]
        if old:
            try:
                await self._store.write(old[:AT_ONCE])
            except Away as error:
                raise self._no_store(one_line(error), UNCHANGED) from error

    # --- what the others ordered ------------------------------------------------------------

    async def catch_up(self, *, anew: bool = False) -> None:
        """Carry out here what the others have ordered. ``anew``: what there is has been listed just now."""
        await self._claims.settle()
        names, now = self._told.changed, time.monotonic()
        self._told.changed = set()
        if anew:
            names |= set(self._made())
        if self._again_at <= now:
            names |= self.lacking.keys()
            self._again_at = now + AGAIN
        try:
            await self._go_by(names)
        except BaseException:
            # The store is away: it is news still.
            self._told.changed |= names
            raise

    async def _go_by(self, names: Collection[str]) -> None:
        unheard_of = sorted(name for name in names if name not in self._told.rows and self._is_made(name))
        for first in range(0, len(unheard_of), AT_ONCE):
            await self._tell_of(unheard_of[first : first + AT_ONCE])
        # First what goes: what comes may have its number, or its key.
        others = sorted(
            frozenset(names).difference(unheard_of), key=lambda name: (self._is_there(name), name)
        )
        for first in range(0, len(others), AT_ONCE):
            await asyncio.gather(*(self._see_to(name) for name in others[first : first + AT_ONCE]))

    def _is_there(self, name: str) -> bool:
        row = self._told.rows.get(name)
        return row is not None and row.document is not None

    async def _tell_of(self, names: Sequence[str]) -> None:
        """Of what the store has never heard of."""
        async with self._names.held(names):
            values = {
                name: rows.made(document)
                for name in names
                if self._is_made(name) and (document := self._document(name)) is not None
            }
            if not values:
                return
            writes = [Write(self.kind + name, value, 0) for name, value in values.items()]
            written = await self._store.write(writes)
            refused = {each.key for each in written.refused}
            for name, value in values.items():
                if self.kind + name not in refused:
                    self._view.wrote_made(self.kind, name, value, written.at[self.kind + name])

    async def _see_to(self, name: str) -> None:
        # Whatever becomes of the store meanwhile. Made where it is begun: who is cancelled before has none.
        await whole(self._carry_out(name))

    async def _carry_out(self, name: str) -> None:
        async with self._names.one(name):
            row, here = self._told.rows.get(name), self._document(name)
            try:
                if row is None or row.document is None:
                    if row is not None and self._is_made(name):
                        await self._take_out(name)
                elif here is None:
                    await self._make(row.document)
                elif here != row.document:
                    if not self._is_made(name):
                        self._refuse_for_file(name, here, row.document)
                    await self._become(name, row.document)
            except TemposError as error:
                self._lack(name, one_line(error))
            else:
                if self.lacking.pop(name, None) is not None:
                    self._changes.tell(Kind.FLEET, f"{self.word} {name} is here as in the rest of the fleet")

    def _refuse_for_file(self, name: str, here: dict[str, Any], there: dict[str, Any]) -> None:
        different = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
        raise Conflict(
            f"the file has {self.word} {name!r} with another {', '.join(different)}", "make both the same"
        )

    def _look_again(self, name: str) -> None:
        # What others ordered may have been lacking for this one alone.
        self._told.changed |= {name, *self.lacking}
        self._fleet.look_soon()

    def _lack(self, name: str, why: str) -> None:
        if self.lacking.get(name) != why:
            text = f"{self.word} {name} is not here as in the rest of the fleet: {why}"
            self._changes.tell(Kind.FLEET, text, level=logging.WARNING)
        self.lacking[name] = why
