"""A broker in its fleet: keeps its lease, tells of its members, and has those of the others in force.

    what members want here ──► told of ──► registry ──► watched by every broker ──► adopted ──► routes swapped
                                                                                          │
    answered ◄── confirmed by so many ◄──── registry ◄──── in force here up to a revision ◄┘

Rules: what is in force stays so while the store is away; what it says when it is back is gone by, revision by
revision. Whose key another broker wrote last has its home there. Who has not said that it hears other brokers
is a member of this one alone. Nothing here holds up what serves events: the store is asked elsewhere
(:mod:`.aside`), and who waits for others waits for a limited time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

from tempos._awaitables import in_time
from tempos_broker.account.accounts import Holder
from tempos_broker.account.changes import Changes, Kind
from tempos_broker.config.model import FleetConfig
from tempos_broker.fleet import homes, rows, silent
from tempos_broker.fleet.described import brokers_in, members_in
from tempos_broker.fleet.drains import Drains
from tempos_broker.fleet.reached import Reached
from tempos_broker.fleet.registry import Away, Compacted, LeaseGone, Registry, Write, Written
from tempos_broker.fleet.rows import BrokerRow, MemberRow
from tempos_broker.fleet.untold import Untold
from tempos_broker.fleet.view import View
from tempos_broker.members.known import Lease
from tempos_broker.membership import Registry as Members
from tempos_broker.routes import Routes
from tempos_broker.tasks import first_to_fail

log = logging.getLogger("tempos.broker.fleet")

#: Seconds, at random, until the store is tried again.
AGAIN = (0.1, 0.5)
#: Seconds until what was refused, for the key had changed, is tried again.
REFUSED_AGAIN = 0.05
#: Parts of the lease after which it is renewed.
RENEWED_AFTER = 1 / 4
#: Of a crowd that comes all together each transaction, and each route that follows from it, is to be of many,
#: for what these cost goes by how many are in already. Members told of at once that are many; seconds until
#: the next are told of, at least: as long as the former took, but no longer than so many seconds more.
MANY, GATHERED, LONGEST = 4, 0.05, 0.2
#: Seconds between two looks at whom we serve.
LOOK_EVERY = 1.0
#: Why the registry is not there, until it was asked for the first time.
_NOT_ASKED = "not asked yet"
#: Brokers above which each says less often how far it is, and seconds for each of them between two times.
CROWD, PER_BROKER = 16, 0.002


class Share(Protocol):
    """Things of a kind that brokers have together; ``lacking``: which are not had here so, and why."""

    @property
    def lacking(self) -> Mapping[str, str]: ...

    async def catch_up(self, *, anew: bool = False) -> None:
        """Carry out here what the others have ordered; ``anew``: what there is has been listed just now."""


class Fleet:
    """``me``: how the others know this broker; ``members``, ``routes``: its own.

    ``received``: how many events came here so far.
    """

    def __init__(
        self,
        config: FleetConfig,
        me: BrokerRow,
        store: Registry,
        members: Members,
        routes: Routes,
        changes: Changes,
        received: Callable[[], int] = lambda: 0,
    ) -> None:
        self.me = me
        members.zone, members.holdings.on_home = me.zone, members.moved
        self.view = View()
        #: Why the store is not to be had; None: it is.
        self.away: str | None = _NOT_ASKED
        self.since = time.monotonic()
        #: Up to which revision what others told of is in force here.
        self.in_force = 0
        self.name = config.name
        #: Who is taken out of service.
        self.drains = Drains(me.name, self.view, store, members, changes, received)
        self._config = config
        self._store = store
        self._members = members
        self._routes = routes
        self._changes = changes
        self._lease = 0
        #: Of the members of others, how many we serve, and how many not.
        self._counted = 0, 0
        #: How far we are, as we told last.
        self._told: rows.Progress | None = None
        #: Members of whom there may be something to tell, and others of whom there is something to adopt.
        self._untold = Untold()
        #: The revision of what we wrote last.
        self._written = 0
        self._changed: set[Holder] = set()
        #: Whether another broker may wait for what was heard of to be in force here, and be told.
        self._awaits_us = True
        #: From which revision on members know of this life of ours; who has to be heard first, until when.
        self._began = 0
        self._awaited: set[Holder] = set()
        #: Topics with members of other brokers that may not be in force yet.
        self._coming: set[int] = set()
        self._until = 0.0
        #: Members that a store which has lost its past does not know, and until when they stay.
        self._doubtful: dict[Holder, float] = {}
        #: What the brokers have together besides members, by what its keys begin with.
        self.shares: dict[str, Share] = {}
        self._work = asyncio.Event()
        #: Somebody waits for what there is to tell.
        self._hurry = asyncio.Event()
        self._heard = asyncio.Event()
        #: Who waits for what there is to tell to be told, and for revisions: in force everywhere, and heard.
        self._telling_reached, self._everywhere_reached = Reached(), Reached()
        self._hearing_reached = Reached()
        self._living: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    # --- life -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Be a broker of the fleet from now on, as soon as the store lets it."""
        self._members.holdings.wants.on_change = self._note
        loop = asyncio.get_running_loop()
        self._living = loop.create_task(self._live(), name="tempos fleet")
        self._listening = loop.create_task(
            silent.watch(self._members, self._changes, self._let_out), name="tempos fleet, silent"
        )

    async def close(self) -> None:
        """Be none any more; what is told of members holds until the lease ends, or the next life is there."""
        self._members.holdings.wants.on_change = None
        for task in (self._living, self._listening):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._store.close()

    async def _live(self) -> None:
        while True:
            try:
                await self._attend()
            except (Away, LeaseGone, Compacted) as error:
                if isinstance(error, LeaseGone):
                    self._lease = 0
                if not isinstance(error, Compacted):
                    self._lost(str(error))
            except Exception as error:
                log.exception("the fleet's registry cannot be followed")
                self._lost(f"{type(error).__name__}: {error}")
            await asyncio.sleep(random.uniform(*AGAIN))

    async def _attend(self) -> None:
        """Be there until the store is gone, or does not know of us any more; then it raises."""
        if self._lease:
            try:
                await self._store.keep_alive(self._lease)
            except LeaseGone:
                self._lease = 0
        anew = not self._lease
        if anew:
            self._lease = await self._store.grant(self._config.lease)
        await self._look(anew=anew)
        self._found()
        self._work.set()
        await first_to_fail(
            self._keep(), self._watch(), self._adopt(), self._tell(), self.drains.watch(), self._look_around()
        )

    async def _look(self, *, anew: bool) -> None:
        """Go by all that there is, and write what is ours where it is not there."""
        listed = await self._store.list()
        known = self.view.members
        if listed.revision < self.view.revision:
            # The store has lost its past. The others are about to tell again of whom they have.
            until = time.monotonic() + self._config.lease
            self._doubtful = {holder: until for holder, row in known.items() if row.home != self.me.name}
            # What is written from now on is so in this life of ours.
            self._began = min(self._began, listed.revision)
        if not self._began:
            await self.drains.begin_anew()
            self._began, self._until = listed.revision, time.monotonic() + self._members.lease
            self._changed |= {lease.holder for lease in self._members.holdings.all() if lease.shared}
        self._changed |= self.view.replace(listed.revision, listed.entries)
        self._wake()
        for holder in [holder for holder in self._doubtful if holder in self.view.members]:
            del self._doubtful[holder]
        other = self.view.brokers.get(self.me.name)
        if other is not None and other.number != self.me.number and anew:
            raise Away(
                f"another broker of fleet {self.name!r} is named {self.me.name!r}, at {other.address}: "
                "give each its own broker.name"
            )
        for lease in self._members.holdings.all():
            if lease.hears is None or lease.home:
                continue
            row = self.view.members.get(lease.holder)
            if row is None or row.home == self.me.name or lease.holder not in self._changed:
                self._untold.add(lease.holder)
            else:
                # It has found another home meanwhile. Should it have come to us since, it says so on and on.
                self._untold.discard(lease.holder)
        await self._put_in_force(anew=True)
        self._told = None
        await self._store.write([Write(self.me.key, self.me.value())], self._lease)
        self.view.brokers[self.me.name] = self.me
        # Of whom we told before, and who has gone meanwhile.
        for holder, row in self.view.members.items():
            if row.home == self.me.name and not anew and self._members.lease_of(holder) is None:
                self._untold.add(holder)

    def _lost(self, why: str) -> None:
        if self.away is None:
            text = f"fleet {self.name!r}: its registry is away, what is in force stays so: {why}"
            self._changes.tell(Kind.FLEET, text, level=logging.WARNING)
        if self.away is None or self.away == _NOT_ASKED:
            self.since = time.monotonic()
        self.away = why
        for each in (self._telling_reached, self._everywhere_reached, self._hearing_reached):
            each.let_go()

    def _found(self) -> None:
        if self.away is not None:
            others = ", ".join(name for name in self.view.brokers if name != self.me.name) or "nobody else"
            self._changes.tell(Kind.FLEET, f"in fleet {self.name!r}, with {others}")
            self.since = time.monotonic()
        self.away = None

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._config.lease * RENEWED_AFTER)
            deadline = time.monotonic() + self._config.lease
            while True:
                try:
                    await self._store.keep_alive(self._lease)
                    break
                except Away:
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(random.uniform(*AGAIN))

    # --- what others tell -------------------------------------------------------------------

    async def _watch(self) -> None:
        async for changes in self._store.watch(self.view.revision):
            before = set(self.view.brokers)
            if not self._awaits_us:
                self._awaits_us = any(self.view.is_of_another(each, self.me.name) for each in changes)
            changed = self.view.take(changes)
            for holder in changed:
                self._doubtful.pop(holder, None)
            self._changed |= changed
            news = any(self.view.made[kind].changed for kind in self.shares)
            if self._changed or self._doubtful or news:
                self._heard.set()
            self._tell_who(before, set(self.view.brokers))
            if changes:
                self._wake()
            if self.me.name not in self.view.brokers:
                raise LeaseGone("the registry does not have this broker any more")

    def _tell_who(self, before: Collection[str], after: Collection[str]) -> None:
        for name in sorted(set(after) - set(before)):
            row = self.view.brokers[name]
            where = f"{row.address}{f' in zone {row.zone}' if row.zone else ''}"
            self._changes.tell(Kind.FLEET, f"broker {name!r} at {where} is in fleet {self.name!r}")
        for name in sorted(set(before) - set(after) - {self.me.name}):
            text = f"broker {name!r} is in fleet {self.name!r} no more"
            self._changes.tell(Kind.FLEET, text, level=logging.WARNING)

    async def _adopt(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._heard.wait()
            self._heard.clear()
            news, began = len(self._changed), loop.time()
            await self._put_in_force()
            await asyncio.sleep(max(0.0, _rested(began, loop.time(), news, least=0.0) - loop.time()))

    async def _put_in_force(self, *, anew: bool = False) -> None:
        """Have in force here what the others have told by now."""
        now = time.monotonic()
        for holder in [holder for holder, until in self._doubtful.items() if until <= now]:
            del self._doubtful[holder]
            self._changed.add(holder)
        upto, awaits_us = self.view.revision, self._awaits_us or anew
        self._awaits_us = False
        for share in self.shares.values():
            await share.catch_up(anew=anew)
        # Where this is broken off, for the store is away, what was not looked at yet is news still.
        for number, holder in enumerate(list(self._changed)):
            self._changed.discard(holder)
            self._coming |= self._take(holder)
            if number % 64 == 63:
                await asyncio.sleep(0)
        await self._routes.keep_wants()
        self._coming = {topic for topic in self._coming if self._routes.is_due(topic)}
        await self._routes.swap_all(self._coming)
        self.in_force = max(upto, 0)
        if awaits_us:
            # Else it is told with what there is to tell next, or within a second.
            self._work.set()

    def _take(self, holder: Holder) -> set[int]:
        """Go by what is told of one member; the topics that this changes."""
        row, lease = self.view.members.get(holder), self._members.lease_of(holder)
        moved = self.view.has_moved(holder)
        if row is not None and row.home == self.me.name:
            if lease is None and self.view.written.get(row.key, 0) > self._began:
                # It left before we heard of what we had written ourselves.
                self._note(holder)
            return set()
        self._awaited.discard(holder)
        if row is None or not row.wanted:
            if moved and lease is not None and not lease.home and holder not in self._untold:
                # It went to another home, and left that before we heard of it.
                return self._members.goodbye(lease.endpoint, holder.client or 0)
            if lease is not None and not lease.home and lease.hears is not None:
                # Ours, and not there any more: told again.
                self._note(holder)
            if lease is not None and lease.shared and not lease.home and self._has_members_elsewhere():
                # Of a former life. It has found a home at none of the others meanwhile: it has left.
                return self._members.goodbye(lease.endpoint, holder.client or 0)
            return set() if holder in self._doubtful else homes.release(self._members, holder)
        if holder in self._members.leaving():
            return set()
        if holder in self._untold and (lease is None or not lease.home):
            # It has come to us since, or left.
            if lease is None:
                self._untold.pass_over(holder)
            return set()
        knows_us = self.me.number in row.hears and self.view.written.get(row.key, 0) > self._began
        if not knows_us and (lease is None or not lease.topics):
            # What is sent to it now it would not take, or take for a former life's. It comes by itself.
            self._awaited.add(holder)
            return set()
        return self._adopt_one(row)

    async def _let_out(self, topics: Iterable[int]) -> None:
        """Have routes in force without those who are not heard here."""
        self._coming |= set(topics)
        await self._routes.swap_all(topics)

    def _has_members_elsewhere(self) -> bool:
        others = self.view.brokers.keys() - {self.me.name}
        return any(row.home in others for row in self.view.members.values())

    def _adopt_one(self, row: MemberRow) -> set[int]:
        home = self.view.brokers.get(row.home)
        return homes.adopt(self._members, row, self.me.address, "" if home is None else home.zone)

    def came(self, holder: Holder) -> set[int]:
        """A member of another broker is heard here: it hears us. The topics that this changes."""
        row = self.view.members.get(holder)
        self._awaited.discard(holder)
        if row is None or row.home == self.me.name or holder in self._members.leaving():
            return set()
        changed = self._adopt_one(row)
        self._coming |= changed
        return changed

    # --- what we tell -----------------------------------------------------------------------

    def _note(self, holder: Holder) -> None:
        self._untold.add(holder)
        self._hurry.set()
        self._work.set()

    async def _tell(self) -> None:
        loop, free_at = asyncio.get_running_loop(), 0.0
        while True:
            await self._work.wait()
            if (pause := free_at - loop.time()) > 0:
                await asyncio.sleep(pause)
            began = loop.time()
            if not self._untold and len(self.view.brokers) > CROWD:
                # Each tells all how far it is: many do so less often, and of more at once.
                pause = PER_BROKER * len(self.view.brokers) * random.uniform(0.5, 1.5)
                with contextlib.suppress(asyncio.TimeoutError):
                    await in_time(self._hurry.wait(), pause)
            self._hurry.clear()
            self._work.clear()
            found = ((holder, self._write_of(holder)) for holder in self._untold.begin())
            writes = {holder: write for holder, write in found if write is not None}
            try:
                await self._tell_all(writes)
            except BaseException:
                self._untold.fail()
                raise
            if others := self._untold.end(writes):
                self._changed |= others
                self._heard.set()
            free_at = _rested(began, loop.time(), len(writes))
            self._telling_reached.tell(self._untold.told)
            self._wake()

    async def _tell_all(self, writes: dict[Holder, Write]) -> None:
        """Members, and how far we are, in one transaction as far as one holds them."""
        progress, all_ = self._progress(), list(writes.values())
        if progress != self._told:
            all_.append(Write(rows.IN_FORCE + self.me.name, progress.value()))
        if not all_:
            return
        written = await self._store.write(all_, self._lease)
        self._told = progress
        if writes:
            self._take_written(writes, written)

    def _take_written(self, writes: dict[Holder, Write], written: Written) -> None:
        refused = {each.key for each in written.refused}
        self._written = max(self._written, written.revision)
        for holder, write in writes.items():
            if write.key in refused:
                self._untold.refused(holder)
                asyncio.get_running_loop().call_later(REFUSED_AGAIN, self._note, holder)
            else:
                self.view.wrote_member(holder, write, written.at[write.key])

    def _progress(self) -> rows.Progress:
        topics, clients = (len(self._lacking(kind)) for kind in (rows.TOPICS, rows.CLIENTS))
        return rows.Progress(self.in_force, *self._counted, topics, clients)

    def _lacking(self, kind: str) -> Mapping[str, str]:
        return self.shares[kind].lacking if kind in self.shares else {}

    async def _look_around(self) -> None:
        """Count whom of the others' members we serve, and tell it."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            serves = lacks = 0
            for number, (holder, row) in enumerate(list(self.view.members.items())):
                lease = self._members.lease_of(holder) if row.home != self.me.name else None
                if lease is not None and lease.topics:
                    serves += 1
                elif row.home != self.me.name:
                    # It is awaited, not heard, kept out, or wants nothing that there is here.
                    lacks += 1
                if number % 512 == 511:
                    await asyncio.sleep(0)
            self._counted = serves, lacks
            if any(share.lacking for share in self.shares.values()):
                self._heard.set()
            if self._told != self._progress():
                self._work.set()

    def _write_of(self, holder: Holder) -> Write | None:
        """What is to be written of a member; None: nothing."""
        lease, row = self._members.lease_of(holder), self.view.members.get(holder)
        key = rows.key_of(holder)
        expected = self.view.written.get(key, 0)
        if lease is not None and (lease.home or (lease.hears is None and lease.wanted)):
            return None
        if lease is None or not lease.wanted:
            ours = row is None or row.home == self.me.name
            return Write(key, None, expected) if expected and ours else None
        return Write(key, self._row_of(lease).value(), expected)

    def _row_of(self, lease: Lease) -> MemberRow:
        wanted = {name: (how.group, how.client) for name, how in lease.wanted.items()}
        return MemberRow(lease.holder, self.me.name, lease.hears or (), wanted)

    # --- what is asked ----------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether what is published here reaches the members of all: who they are is known, and in force."""
        if self._awaited and time.monotonic() > self._until:
            self._awaited.clear()
        self._coming = {topic for topic in self._coming if self._routes.is_due(topic)}
        is_whole = self.in_force > 0 and not self._awaited and not self._coming
        return is_whole and not self.drains.is_leaving

    @property
    def noted(self) -> int:
        """How much there was to tell so far, for settle()."""
        return self._untold.noted

    async def settle(self, noted: int, limit: float) -> None:
        """Wait until every broker has in force what had been ``noted`` here, at most so many seconds."""
        with contextlib.suppress(asyncio.TimeoutError):
            await in_time(self._settled(noted), limit)

    async def wait_for(self, revision: int, limit: float) -> None:
        """Wait until every broker has this revision in force, at most so many seconds."""
        with contextlib.suppress(asyncio.TimeoutError):
            await in_time(self._everywhere(revision), limit)

    def look_soon(self) -> None:
        """There is something that others told to be put in force."""
        self._heard.set()

    def look_over(self) -> None:
        """What holds here may be another than it was: what went from the file may be the fleet's still."""
        for kind in self.shares:
            made = self.view.made[kind]
            made.changed |= made.rows.keys()
        self.look_soon()

    async def _settled(self, noted: int) -> None:
        while self.away is None and self._untold.told < noted:
            await self._telling_reached.until(noted)
        await self._everywhere(self._written)

    async def _everywhere(self, revision: int) -> None:
        while self.away is None and self.view.least_in_force(self.me.name) < revision:
            await self._everywhere_reached.until(revision)

    async def hear(self, revision: int, limit: float) -> bool:
        """Hear of all up to this revision, within so many seconds; whether that was so."""
        with contextlib.suppress(asyncio.TimeoutError):
            await in_time(self._hear(revision), limit)
        return self.view.revision >= revision

    async def _hear(self, revision: int) -> None:
        while self.away is None and self.view.revision < revision:
            await self._hearing_reached.until(revision)

    def _wake(self) -> None:
        self._hearing_reached.tell(self.view.revision)
        self._everywhere_reached.tell(self.view.least_in_force(self.me.name))

    def is_coming(self, holder: Holder) -> bool:
        """Whether a member of ours is about to be in force at other brokers, as far as the store goes."""
        lease = self._members.lease_of(holder)
        if self.away is not None or lease is None or lease.home or lease.hears is None:
            return False
        _, confirmed, brokers, *_ = self.confirmed(holder)
        return confirmed < brokers

    async def come(self, holder: Holder, limit: float) -> None:
        """Wait until it is, at most so many seconds."""
        under_way = holder in self._untold
        written = self.view.written.get(rows.key_of(holder), 0)
        if under_way:
            await self.settle(self._untold.noted, limit)
        elif written:
            await self.wait_for(written, limit)

    def confirmed(self, holder: Holder) -> tuple[int, ...]:
        """The state of the fleet, how many brokers have a member in force, and how many there are.

        And a 1 where this one is about to leave.
        """
        brokers = max(len(self.view.brokers), 1)
        written = self.view.written.get(rows.key_of(holder))
        under_way = holder in self._untold
        others = 0 if written is None or under_way else self.view.confirmed(written, self.me.name)
        return self.view.changes, 1 + others, brokers, *((1,) if self.drains.is_leaving else ())

    def document(self) -> dict[str, Any]:
        """Who is in the fleet, and how far each has come."""
        # A start is not yet an absence.
        is_new = self.away == _NOT_ASKED
        return {
            "name": self.name,
            "broker": self.me.name,
            "registry": "in reach" if self.away is None else "being asked" if is_new else "away",
            "why": "" if is_new else self.away or "",
            "since_s": round(time.monotonic() - self.since, 1),
            "revision": self.view.revision,
            "in_force": self.in_force,
            "untold": len(self._untold),
            "topics": self.view.made[rows.TOPICS].count,
            "clients": self.view.made[rows.CLIENTS].count,
            "shares_keys": rows.CLIENTS in self.shares,
            "lacks_topics": _told(self._lacking(rows.TOPICS)),
            "lacks_clients": _told(self._lacking(rows.CLIENTS)),
            "brokers": brokers_in(self.view),
        }

    def members(self) -> list[dict[str, Any]]:
        """The fleet's members: where each is at home, what it wants, and whether it is served here."""
        return members_in(self.view, self._members.lease_of)


def _told(lacking: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "reason": why} for name, why in sorted(lacking.items())]


def _rested(began: float, ended: float, members: int, least: float = GATHERED) -> float:
    """When the next members are told of or adopted, after so many; one who comes alone waits for nobody."""
    if members < MANY:
        return 0.0
    return max(began + least, ended + min(ended - began, LONGEST))
