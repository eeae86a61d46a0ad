"""What is written for the next life: steps with each swap, documents once a second, things as they come.

Of a topic the store has a document and the steps since (:mod:`.steps`). A swap writes a step: what it costs
goes by what changed. Whatever has changed since its document, an account in which members have reported
included, is written whole within a second, in slices that whoever waits for the loop does not notice. A topic
of many members is told in pieces, which hold if nothing but members' reports came in between; else it has its
turn again. Rules:

* no packet can carry an epoch that is not stored. Where it cannot be, the counters are marked as not going
  with what is stored, and hold the highest epoch that was given. A start whose counters are nobody's yet
  promises one number for all topics instead: none of them is given a higher epoch until all are written;
* after a writing that failed of a topic, it is written whole: steps say what differs from the one before;
* steps of a topic are asked for by whoever holds it for a swap, and waited for, so they come one by one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from tempos import Reason, Route
from tempos._awaitables import until_next
from tempos._remarks import Remark
from tempos._rows import Rows
from tempos.errors import one_line
from tempos_broker.account.exporting import ACCOUNTS, Pieces
from tempos_broker.account.ledger import Ledger
from tempos_broker.counting import Counting
from tempos_broker.counts import Counted
from tempos_broker.lives.alike import Texts
from tempos_broker.lives.clock import UP, up
from tempos_broker.lives.memory import PROMISED, Kept, Remembered, write, write_with
from tempos_broker.lives.steps import Endpoint, Known, step_document
from tempos_broker.lives.store import Step, Store, Thing, Whole
from tempos_broker.lives.wants import WANTED, as_thing
from tempos_broker.members.known import Membership
from tempos_broker.membership import Registry
from tempos_broker.state import TopicState

#: Of a topic, what the slow path counted, and what the fast path's counters say.
_Moving: TypeAlias = tuple[Mapping[Reason, int], Mapping[Reason, int]]

log = logging.getLogger("tempos.broker.state")

#: Seconds between two writings of the state, if nothing changes that must be known before.
SAVE_EVERY = 1.0
#: Of what is written about once a second: members (and topics) at once, and seconds between two such slices.
MEMBERS_AT_ONCE, PAUSE = 64, 0.002
#: The same when nobody waits for the loop: not yet, as a life begins, or not any more.
AT_ONCE = 1024
#: So often in turn a large topic may change while it is told, about a second apart; then it is told at once.
TRIES = 8
#: Topics whose counters are looked at in one go.
LOOKED_AT = 64
#: Topic 0 has no route, so its first ticket counter can tell whose counters these are: the instance number
#: of the lives they belong to, or 0 where what is stored has not kept up with them.
MARK = (0, 0, 0)
#: The next one: the highest epoch that was given while the state could not be written.
UNSTORED = (0, 0, 1)


class _Telling:
    """Documents that are told together: as of one moment, by either clock, so that they can be alike."""

    def __init__(self) -> None:
        self.wall, self.now, self.texts = time.time(), time.monotonic(), Texts()


class Keeper:
    """Writes into ``store``; None: nothing is kept.

    ``own``: what of the broker's own stays as it is; "instance" among it: whose the counters are, once begun.
    """

    def __init__(
        self,
        store: Store | None,
        own: Mapping[str, Any],
        counting: Counting,
        registry: Registry,
        ledger: Ledger,
        states: Mapping[int, TopicState],
        rows: Rows,
    ) -> None:
        self._store = store
        self._own = own
        self._counting = counting
        self._registry = registry
        self._ledger = ledger
        self._states = states
        self._rows = rows
        #: Topics as the store has them, or will have as soon as it is their turn; and their last steps.
        self._known: dict[int, Known] = {}
        self._numbers: dict[int, int] = {}
        #: What could not be written yet: topics, topics that ended with their name and last epoch, things.
        self._unsaved: set[int] = set()
        self._unsaved_ends: dict[int, tuple[str, int]] = {}
        self._unsaved_things: dict[tuple[str, str], Any] = {}
        #: How often in turn large topics have changed while they were told.
        self._changing: Counter[int] = Counter()
        #: What of each topic's counters was written last: its account may stay as it is while they move.
        self._written: dict[int, _Moving] = {}
        self._begun = False
        self._trouble = Remark(log, "what has changed is written again")
        self._kept_up = True
        #: The highest epoch that was given while the state could not be written.
        self.unstored_epoch = 0
        #: The highest epoch that may have been given before this life began, and the same as it is stored.
        self._promised = self._promise_kept = 0
        if store is not None:
            store.values = self._values
            self._numbers = {topic: steps[-1][0] for topic, steps in store.stored.steps.items()}

    @property
    def where(self) -> str:
        """The state file, or "off"."""
        return "off" if self._store is None else str(self._store.path)

    @property
    def trouble(self) -> str:
        """Why the state file cannot be written now, or ""."""
        return "" if self._store is None else self._store.trouble

    # --- with each swap ---------------------------------------------------------------------

    async def opening(self, routes: Sequence[Route]) -> None:
        """Write down epochs that are about to be in force: none ever goes back.

        Where that cannot be written, the counters are made to say so: the next life will not take them for
        those of the epochs that it finds stored, and begins beyond the highest that was given.
        """
        if self._store is None:
            return
        if not (self._begun or self._kept_up):
            await self._promise(self._store, max(route.epoch for route in routes))
            return
        await self._write([await self._change(route.topic.id) for route in routes])
        for route in routes:
            if route.topic.id in self._unsaved:
                self.fall_behind(route.epoch)

    async def _promise(self, store: Store, epoch: int) -> None:
        """Give epochs up to this one, to whatever topic: the next life begins beyond, unless this one begins.

        The counters say that they do not go with what is stored, so nothing of a topic need be stored.
        """
        if epoch > self._promised:
            self._promised = epoch
            self._mark(0)
        if epoch > self._promise_kept and await store.save(()):
            # Where it cannot be stored the counters say it.
            self._promise_kept = max(self._promise_kept, epoch)

    def closed(self, topic: int, epoch: int, tickets: list[int], unsent: list[int]) -> None:
        """The account of an epoch is closed; what is written of the topic next says so."""
        if (known := self._known.get(topic)) is not None:
            known.closed.append((epoch, tickets, unsent))

    async def swapped(self, topics: Iterable[int]) -> None:
        """Write down what swaps have come to; before this life has begun, that is done once for all."""
        if self._store is not None and self._begun:
            await self._write([await self._change(topic) for topic in topics])

    # --- all there is -----------------------------------------------------------------------

    async def begin(self, ended: Mapping[int, tuple[str, int]], *, all_anew: bool = True) -> None:
        """Write down what this life begins with, and topics that are no more: name and last epoch.

        ``all_anew``: also of topics whose route is that of the former life.
        """
        self._begun = True
        self._unsaved_ends.update(ended)
        # Whatever else is as it was found is written with what changes.
        swapped = [topic for topic in self._states if all_anew or topic in self._known]
        telling = _Telling()
        for some in self._slices(swapped, AT_ONCE):
            await self.save(some, telling)
            for topic in some:
                if not self._is_large(topic):
                    self._known.pop(topic, None)
        await self.save()

    async def save(self, topics: Iterable[int] = (), telling: _Telling | None = None) -> None:
        """Write down all of these topics, and who drains; what could not be written before, too.

        But for large ones that are not among these: they are told in pieces, when it is their turn.
        """
        if self._store is None:
            return
        self._unsaved &= self._states.keys()
        again = (topic for topic in self._unsaved if not self._is_large(topic))
        wanted = [topic for topic in {*topics, *again} if topic in self._states]
        await self._write(
            [
                *(Thing(*place, value) for place, value in self._unsaved_things.items()),
                *(self._end(topic, *end) for topic, end in self._unsaved_ends.items()),
                *self._wholes(wanted, telling),
            ]
        )

    async def save_ended(self, routes: Iterable[Route]) -> None:
        """Write down the epochs of topics that ended, and nothing else of them."""
        if self._store is None:
            return
        self._unsaved_ends.update((r.topic.id, (r.topic.name, r.epoch)) for r in routes)
        await self.save()

    async def put(self, kind: str, things: Mapping[str, Any], *, again: bool = True) -> bool:
        """Have these things stored: by key, a JSON value or None, if there is none any more.

        Whether they are; else it is tried ``again`` every second until they are, or they are as they were.
        """
        if self._store is None:
            return True
        if not again:
            return await self._store.save([Thing(kind, key, value) for key, value in things.items()])
        self._unsaved_things.update({(kind, key): value for key, value in things.items()})
        await self._write([Thing(kind, key, value) for key, value in things.items()])
        return not any((kind, key) in self._unsaved_things for key in things)

    async def keep_saving(self) -> None:
        """Write down what changes, until cancelled: about once a second, a slice at a time."""
        while self._store is not None:
            await asyncio.gather(asyncio.sleep(until_next(SAVE_EVERY)), self._save_moved())

    async def _save_moved(self) -> None:
        try:
            await self._save_slices()
            self._trouble.gone()
        except Exception as error:  # noqa: BLE001 - logged in full; what comes next is to be written all the same
            self._trouble(f"what has changed could not be written: {one_line(error)}", trace=True)

    async def _save_slices(self) -> None:
        moved = {*await self._moved(), *self._unsaved}
        large = [topic for topic in moved if self._is_large(topic)]
        slices = self._slices(moved.difference(large))
        # That this broker lives, and who drains, is written with the first, whatever else there is to say.
        await self.save(next(slices, ()))
        for some in slices:
            await asyncio.sleep(PAUSE)
            await self.save(some)
        for topic in large:
            if (whole := await self._in_pieces(topic, PAUSE)) is not None:
                await self._write([whole])
            elif self._changing[topic] >= TRIES:
                await self.save([topic])

    async def save_rest(self, within: float) -> None:
        """Write down, for the last time, what the state file does not say yet, as far as the seconds go.

        What was not written is as a kill leaves it.
        """
        if self._store is None:
            return
        end = time.monotonic() + within
        rest = {*self._moved_of(list(self._states)), *self._unsaved}
        for some in self._slices(list(rest), AT_ONCE):
            if time.monotonic() > end:
                log.warning(
                    "%d topics have changed of late, too many to be written while stopping: the next life "
                    "finds of %d of them what a kill leaves", len(rest), len(rest.intersection(self._states)),
                )  # fmt: skip
                break
            await self.save(some)
            rest.difference_update(some)
        await self.save()

    def _is_large(self, topic: int) -> bool:
        """Whether telling all of it takes longer than anybody should wait."""
        return self._registry.member_count(topic) > MEMBERS_AT_ONCE

    def _slices(self, topics: Iterable[int], size: int = MEMBERS_AT_ONCE) -> Iterator[list[int]]:
        """The topics, so many at a time that whoever waits for the loop does not notice."""
        slice_: list[int] = []
        weight = 0
        for topic in topics:
            if topic not in self._states:
                continue
            slice_.append(topic)
            weight += 1 + self._registry.member_count(topic)
            if weight >= size:
                yield slice_
                slice_, weight = [], 0
        if slice_:
            yield slice_

    async def _moved(self) -> list[int]:
        """Those of which the state file does not say how they are; others have their turn in between."""
        moved = []
        for first in range(0, len(topics := list(self._states)), LOOKED_AT):
            moved += self._moved_of(topics[first : first + LOOKED_AT])
            await asyncio.sleep(0)
        return moved

    def _moved_of(self, topics: list[int]) -> list[int]:
        """The same, of these topics.

        Whoever draws a ticket counts it, so the tickets need not be looked at.
        """
        slow, fast = self._counting.slow(topics), self._counting.fast_raw(topics)
        nothing: _Moving = {}, {}
        return [
            topic
            for topic in topics
            if topic in self._ledger.changed
            or self._written.get(topic, nothing) != (slow.get(topic, {}), fast.get(topic, {}))
        ]

    # --- what is written --------------------------------------------------------------------

    def _values(self) -> dict[str, Any]:
        """The broker's own: whoever it is, that it lives, who drains and who is kept out."""
        now = time.monotonic()
        leaving = [
            [*holder, sorted(each.topics), each.deadline - now]
            for holder, each in self._registry.leaving().items()
        ]
        wall = time.time()
        kept_out = self._registry.departures.export(now, wall)
        return {
            **self._own,
            "wall": wall,
            "leaving": leaving,
            "kept_out": kept_out,
            PROMISED: self._promised,
            UP: up(),
        }

    def _members(self, topic: int) -> dict[Endpoint, tuple[int, str | None]]:
        return {
            endpoint: (lease.holder.client, member.member.source)
            for group in self._registry.states(topic)
            for endpoint, member in group.members.items()
            if (lease := member.lease) is not None and lease.holder.client is not None
        }

    def _kept(self, topic: int, endpoints: Collection[Endpoint], now: float) -> list[Kept]:
        return [
            kept
            for group in self._registry.states(topic)
            for endpoint, member in group.members.items()
            if endpoint in endpoints and (kept := self._kept_one(group.name, endpoint, member, now))
        ]

    def _kept_one(self, group: str, endpoint: Endpoint, member: Membership, now: float) -> Kept | None:
        if member.client is None or member.expires is None:
            return None
        left = min(member.expires - now, self._registry.lease)
        return Kept(group, *endpoint, member.client, left, member.member.source)

    def _know(self, topic: int, before: Known | None = None) -> Known:
        """The topic as it is now; who says so stores it. What is as it was ``before`` is taken from there."""
        epoch = self._ledger.epoch(topic)
        number, version = self._numbers.setdefault(topic, 0), self._registry.version(topic)
        groups = self._ledger.route(topic, epoch) if epoch in self._ledger.open_epochs(topic) else []
        same = before is not None and before.version == version
        members = before.members if before is not None and same else self._members(topic)
        return Known(number, epoch, groups, members, version)

    async def _change(self, topic: int) -> Step | Whole:
        """What differs from what the store has of a topic; all of it, where that is not known."""
        known = self._known.get(topic)
        if known is None or topic in self._unsaved:
            whole = await self._in_pieces(topic, 0) if self._is_large(topic) else None
            return whole or self._wholes([topic], know=True)[0]
        self._numbers[topic] += 1
        self._known[topic] = now = self._know(topic, known)
        come: set[Endpoint] = set()
        if now.members is not known.members:
            come = {each for each, member in now.members.items() if known.members.get(each) != member}
        document = step_document(known, now, self._kept(topic, come, time.monotonic()) if come else ())
        return Step(topic, now.number, now.epoch, document)

    async def _in_pieces(self, topic: int, pause: float) -> Whole | None:
        """All of a large topic, told in pieces with a ``pause`` between two; None: it changed meanwhile."""
        number, shape, known = self._numbers.get(topic, 0), self._ledger.shape(topic), self._known.get(topic)
        if known is None or known.epoch != self._ledger.epoch(topic):
            known = self._know(topic)
        known = replace(known, closed=[])
        self._ledger.changed.discard(topic)
        whole: Whole | None = None
        try:
            wall = time.time()
            told = self._members_in_pieces(topic), self._ledger.export_in_pieces(topic, time.monotonic())
            texts = [await self._with_pauses(pieces, pause) for pieces in told]
            same = (number, shape) == (self._numbers.get(topic, 0), self._ledger.shape(topic))
            if same and topic in self._states:
                memory = self._remembered(topic, wall, known.number, self._counting.counted([topic]))
                document = write_with(memory, *texts)
                whole = Whole(topic, memory.name, known.epoch, known.number, document)
                self._known[topic] = known
        finally:
            if whole is not None:
                del self._changing[topic]
            elif topic in self._states:
                self._ledger.changed.add(topic)
                self._changing[topic] += 1
        return whole

    @staticmethod
    async def _with_pauses(pieces: Pieces, pause: float) -> str:
        done = 0
        while True:
            try:
                done += next(pieces)
            except StopIteration as stop:
                text: str = stop.value
                return text
            if done >= ACCOUNTS:
                done = 0
                await asyncio.sleep(pause)

    def _members_in_pieces(self, topic: int) -> Pieces:
        texts, now = [], time.monotonic()
        for group in list(self._registry.states(topic)):
            rows = list(group.members.items())
            for first in range(0, len(rows), ACCOUNTS):
                some = rows[first : first + ACCOUNTS]
                kept = (self._kept_one(group.name, *each, now) for each in some)
                texts += [json.dumps(each.row()) for each in kept if each]
                yield -(-len(some) // 4)
        return f"[{', '.join(texts)}]"

    def _wholes(
        self, topics: list[int], telling: _Telling | None = None, *, know: bool = False
    ) -> list[Whole]:
        """All of these topics; ``know``: what changes of them next is to be written as a step.

        Of most topics nothing changes for long: what the store has of them is then not kept in mind.
        """
        if not topics:
            return []
        telling = _Telling() if telling is None else telling
        counted = self._counting.counted(topics)
        wholes: list[Whole] = []
        for topic in topics:
            known = self._know(topic)
            if know or topic in self._known or self._is_large(topic):
                self._known[topic] = known
            memory = self._remembered(topic, telling.wall, known.number, counted)
            document = self._document(topic, memory, known, telling)
            wholes.append(Whole(topic, memory.name, known.epoch, known.number, document))
            self._changing.pop(topic, None)
        self._ledger.changed.difference_update(topics)
        return wholes

    def _document(
        self, topic: int, memory: Remembered, known: Known, telling: _Telling
    ) -> Mapping[str, Any] | str:
        """A topic as it is stored; ``memory`` is of what is not its members'."""

        def all_of_it() -> dict[str, Any]:
            kept = tuple(self._kept(topic, known.members.keys(), telling.now))
            return write(replace(memory, members=kept, ledger=self._ledger.export(topic, telling.now)))

        is_busy = known.members or memory.slow or memory.fast or memory.fast_raw
        groups = None if is_busy else self._ledger.quiet_groups(topic)
        if groups is None:
            return all_of_it()
        return telling.texts.of(memory, (known.epoch, tuple(groups)), all_of_it)

    def _remembered(self, topic: int, wall: float, number: int, counted: Counted) -> Remembered:
        """Of a topic what is not its members', as it is about to be written."""
        described = self._states[topic].route.topic
        self._unsaved_ends.pop(topic, None)
        memory = Remembered(
            described.name, described.framing, wall, (), {}, counted.drawn[topic].tickets,
            counted.slow.get(topic, {}), counted.fast.get(topic, {}), counted.fast_raw.get(topic, {}), number,
            self._rows.of.get(topic),
        )  # fmt: skip
        if memory.slow or memory.fast_raw:
            self._written[topic] = memory.slow, memory.fast_raw
        else:
            self._written.pop(topic, None)
        return memory

    def _end(self, topic: int, name: str, epoch: int) -> Whole:
        """Of a topic that is no more: nothing but its epoch."""
        return Whole(topic, name, epoch, self._numbers.get(topic, 0), {})

    async def _write(self, changes: list[Step | Whole | Thing]) -> None:
        if self._store is None:
            # Nobody asks for it later.
            self._registry.holdings.wants.changed.clear()
            return
        changes = [*self._wants(), *changes]
        done = await self._store.save(changes)
        # As a rule nothing was left over, and there may be thousands.
        in_question = not done or self._unsaved or self._unsaved_ends or self._unsaved_things
        for change in changes if in_question else ():
            match change:
                case Thing(kind, key, value):
                    # None, too, may stand there, and two writings at once may have told the same.
                    if done and self._unsaved_things.get((kind, key), self) is value:
                        del self._unsaved_things[kind, key]
                case Whole(topic, name, epoch, _, document) if not document:
                    if done and self._unsaved_ends.get(topic) == (name, epoch):
                        del self._unsaved_ends[topic]
                case Step(topic) | Whole(topic):
                    if not done and topic in self._states:
                        self._unsaved.add(topic)
                    elif isinstance(change, Whole):
                        self._unsaved.discard(topic)
        if self._begun and not (self._kept_up or self._unsaved or self._unsaved_ends):
            self._kept_up = True
            self._promised = 0
            self._mark(self._own["instance"])

    def _wants(self) -> list[Thing]:
        """What leases want by now, of those of which that changed; first, for members follow from it."""
        changed = self._registry.holdings.wants.changed
        if not changed:
            return []
        wanted = self._registry.holdings.wanted(changed)
        changed.clear()
        shared = self._registry.holdings.is_shared
        things = [
            Thing(WANTED, *as_thing(holder, each, shared=shared(holder))) for holder, each in wanted.items()
        ]
        self._unsaved_things.update({(each.kind, each.key): each.value for each in things})
        return things

    async def keep_wants(self) -> None:
        """Write down what leases want, where that changed; return once what was being written of it is."""
        if self._registry.holdings.wants.changed:
            await self._write([])
        elif self._store is not None:
            await self._store.written()

    def forget(self, topic: int) -> None:
        """The topic is no more; another one of that id is written whole first."""
        self._known.pop(topic, None)
        self._written.pop(topic, None)
        self._changing.pop(topic, None)

    # --- whose counters these are -----------------------------------------------------------

    def fall_behind(self, epoch: int) -> None:
        """What is stored does not go with the counters: nobody is to take them for a pair."""
        self.unstored_epoch = max(self.unstored_epoch, epoch)
        self._kept_up = False
        self._mark(0)

    def _mark(self, instance: int) -> None:
        tickets = self._counting.tickets
        tickets.reset(*MARK[:2])
        tickets.draw(*UNSTORED, max(self.unstored_epoch, self._promised))
        tickets.draw(*MARK, instance)

    async def close(self) -> None:
        """Let go of the store; safe to call twice."""
        if self._store is not None:
            await self._store.close()
