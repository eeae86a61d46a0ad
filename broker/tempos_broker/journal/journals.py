"""The journals of all topics, as a process has them: the broker, or the worker those that it was handed.

A change is in two steps, since another process may write, too: from :meth:`Journals.change` on this one
writes the new memory; once nobody writes the old, :meth:`Journals.settle` takes over what fits of it.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tempos import Topic
from tempos._slots import JournalLayout, journal_owner
from tempos.errors import one_line
from tempos_broker.account.accounts import Holder
from tempos_broker.journal.epochs import INSIDE, Epochs
from tempos_broker.journal.spare import Spare

if TYPE_CHECKING:
    from tempos_broker.journal.memory import Entry, Memory
    from tempos_broker.paths import KernelJournals

log = logging.getLogger("tempos.broker")

#: ns that somebody who writes may be held up before what lacks is missed.
HELD_UP = 50_000_000
#: By how much the tickets of one event differ at most: batches that several processes draw at one moment.
DRAWERS = 1024


class Journals:
    """``of``: by topic id, what the slow path writes."""

    def __init__(
        self, kernel: KernelJournals | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``kernel``: whose memory for a topic the kernel writes, too; None: it writes none."""
        self._kernel = kernel
        self._clock = clock
        self.of: dict[int, Memory] = {}
        self._descriptors: dict[int, int] = {}
        #: What is known of their epochs.
        self._epochs: dict[int, Epochs] = {}
        #: How many places stay free between them.
        self._spares: dict[int, Spare] = {}
        #: What new memory takes the place of, the latest first: it may not have had all of the one before.
        self._former: dict[int, Sequence[Memory]] = {}
        #: By topic, how often members asked for what was before them, and events that they were handed.
        self.replays: Counter[int] = Counter()
        self.replayed: Counter[int] = Counter()
        #: How many events of a topic are kept aside that it may have no more.
        self.aside: Callable[[int], int] = lambda topic: 0
        #: Why a topic has no journal that should have one.
        self._refused: dict[int, str] = {}

    def change(self, drop: Collection[int], put: Iterable[Topic]) -> Mapping[int, JournalLayout | None]:
        """Have no journals of some topics any more, and those of others as their options say.

        Gives what is another one now; None: there is none any more.
        """
        changed: dict[int, JournalLayout | None] = {}
        for topic in drop:
            del self.replays[topic], self.replayed[topic]
            if self._drop(topic):
                changed[topic] = None
        for each in put:
            before = self.of.get(each.id)
            wanted = JournalLayout.of(each.journal, each.journal_room) if each.journal else None
            if (before.layout if before else None) == wanted:
                continue
            if wanted is None:
                self._drop(each.id)
            elif not self._make(each, wanted):
                continue
            changed[each.id] = wanted
        return changed

    async def settle(self) -> None:
        """Nobody writes what was replaced: take over what fits of it. Until then nothing may change."""
        for topic, former in list(self._former.items()):
            if (memory := self.of.get(topic)) is None:
                # Dropped while others were waited for.
                continue
            for each in former:
                # Half a second for a million events, so not on the event loop.
                await asyncio.get_running_loop().run_in_executor(None, memory.follow, each)
            if self._former.get(topic) is former:
                del self._former[topic]
                if self._kernel is not None:
                    await asyncio.get_running_loop().run_in_executor(None, self._kernel.followed, topic)

    def adopt(self, layouts: Mapping[int, JournalLayout | None], descriptors: Sequence[int]) -> None:
        """Write what another process has: by topic, with a descriptor for each that has a journal."""
        from tempos_broker.journal.memory import Memory

        given = iter(descriptors)
        for topic, layout in layouts.items():
            self._drop(topic)
            if layout is not None:
                descriptor = next(given)
                self.of[topic] = Memory(descriptor, layout)
                os.close(descriptor)

    def handed(self) -> Mapping[int, JournalLayout | None]:
        """All of them, for another process."""
        return {topic: memory.layout for topic, memory in self.of.items()}

    def descriptors(self, layouts: Mapping[int, JournalLayout | None]) -> list[int]:
        """What goes with these, as :meth:`adopt` takes it."""
        return [self._descriptors[topic] for topic, layout in layouts.items() if layout is not None]

    def first(self, topic: int, epoch: int) -> int:
        """Where an epoch of a topic begins in its journal; 0: nowhere."""
        memory = self.of.get(topic)
        return 0 if memory is None else memory.first(epoch)

    def latest(self, topic: int) -> int:
        """The highest epoch that a topic's journal knows, maybe of a life that nobody remembers; 0: none."""
        memory = self.of.get(topic)
        return 0 if memory is None else memory.latest

    def slots(self, topic: int) -> int:
        """How many events of a topic its journal has room for; 0: it has none."""
        memory = self.of.get(topic)
        return 0 if memory is None else memory.layout.slots

    def keeps(self, topic: int) -> bool:
        """Whether a topic has a journal, or anything of one; nothing else needs to be told of its epochs."""
        return topic in self.of or topic in self._epochs

    def begin(self, topic: int, epoch: int, drawn: int) -> None:
        """An epoch is to come; of the one before so many tickets were drawn in its first group."""
        if (memory := self.of.get(topic)) is not None:
            if not memory.has(epoch):
                spare = self._spares.setdefault(topic, Spare())
                memory.begin(epoch, drawn, spare.begins(drawn, memory.layout.slots, self._clock()))
            self._epochs.setdefault(topic, Epochs()).begun(epoch, memory.first(epoch))

    def ended(self, topic: int, epoch: int, drawn: int) -> None:
        """An epoch is over, in whose first group so many tickets were drawn."""
        if (epochs := self._epochs.get(topic)) is not None:
            epochs.ended(epoch, drawn)
        if (spare := self._spares.get(topic)) is not None:
            spare.ended(drawn, self._clock())

    def joined(
        self, topic: int, epoch: int, groups: Iterable[tuple[str, Iterable[Holder]]], *, before: bool = False
    ) -> None:
        """Members of an epoch that has begun; ``before``: those new here have been since a former life."""
        memory, epochs = self.of.get(topic), self._epochs.get(topic)
        if memory is not None and epochs is not None:
            first = 0 if before else memory.first(epoch)
            epochs.joined(first, (holder for _, holders in groups for holder in holders))

    def before(self, topic: int, holder: Holder) -> Sequence[tuple[int, int]] | None:
        """Where a topic's journal has what was before somebody was a member.

        None: it is not known since when somebody is one.
        """
        epochs = self._epochs.get(topic)
        return epochs.before(holder) if epochs is not None else None

    def find(self, topic: int, first: int, epoch: int, group: int, ticket: int) -> Entry | None:
        """The event of a ticket in an epoch that begins at ``first``, also while it is taken over."""
        for memory in self._read(topic) if first else ():
            if (entry := memory.find(first, epoch, group, ticket, DRAWERS)) is not None:
                return entry
        return None

    def read(self, topic: int, position: int) -> Entry | None:
        """The event of a position, also while it is taken over; None: it is not there, or not any more."""
        return _entry(self._read(topic), position)

    def _read(self, topic: int) -> Sequence[Memory]:
        """What is read of a topic: what was replaced, too, until all of it that fits has been taken over."""
        memory = self.of.get(topic)
        return [] if memory is None else [memory, *self._former.get(topic, ())]

    def mend(self) -> None:
        """Another process is dead that wrote; this one does not at the moment."""
        for memory in self.of.values():
            memory.mend()

    def document(self, topic: Topic) -> dict[str, Any] | None:
        """What a topic has, as JSON values; None: it is to have none."""
        if not topic.journal:
            return None
        memory = self.of.get(topic.id)
        return {
            "events": topic.journal,
            "bytes": topic.journal_room,
            "memory": memory.layout.size if memory else 0,
            "replays": self.replays[topic.id],
            "replayed": self.replayed[topic.id],
            "aside": self.aside(topic.id),
            "reason": "" if memory else self._refused.get(topic.id, "it is not served yet"),
        }

    async def tap(
        self, topic: Topic, after: int, most: int, last: int | None = None
    ) -> dict[str, Any] | None:
        """The next events after a position, at most ``most``, of the ``last``; None: there is no journal.

        Ends before a gap that may just be being filled.
        """
        if not (memories := self._read(topic.id)):
            return None
        # As long as the journal is, so not on the event loop.
        positions = await asyncio.get_running_loop().run_in_executor(None, _positions, memories, after)
        if last is not None and last < len(positions):
            cut = len(positions) - last
            after, positions = positions[cut - 1], positions[cut:]
        entries, more = _next(memories, self._epochs.get(topic.id) or Epochs(), positions, after, most)
        return {
            "topic": topic.name,
            "framing": topic.framing.value,
            "journal": f"{memories[0].identity:016x}",
            "events": [_told(each) for each in entries],
            "missed": sum(each.missed for each in entries),
            "next": entries[-1].entry.position if entries else after,
            "more": more,
        }

    def close(self) -> None:
        """Let go of all; safe to call twice."""
        for topic in list(self.of):
            self._drop(topic)

    def _make(self, topic: Topic, layout: JournalLayout) -> bool:
        before = self.of.get(topic.id)
        descriptor = -1
        try:
            from tempos_broker.journal.memory import Memory, make

            given = self._kernel.journal(topic.id, layout) if self._kernel is not None else None
            descriptor = make(layout) if given is None else given
            memory = Memory(descriptor, layout, journal_owner(topic.name, topic.framing.value))
        except (ImportError, OSError) as error:
            if descriptor >= 0:
                os.close(descriptor)
            missing = isinstance(error, ImportError)
            why = f"the compiled helper cannot be loaded: {one_line(error)}" if missing else one_line(error)
            stays = "; it stays as it was" if before else ""
            self._refused[topic.id] = why
            log.warning("topic %s: no journal of %d MB: %s%s", topic.name, layout.size >> 20, why, stays)
            return False
        if before is not None:
            memory.continue_from(before)
        epochs = self._epochs.get(topic.id)
        if not memory.is_new:
            # An earlier broker wrote it, of which nobody is left.
            memory.mend()
        self._drop(topic.id)
        if former := self._left(topic.id) if before is None else [before]:
            self._former[topic.id] = former
            if epochs is not None:
                self._epochs[topic.id] = epochs
        if topic.id not in self._epochs and not memory.is_new:
            self._epochs[topic.id] = _epochs_in(*reversed(former), memory)
        self.of[topic.id], self._descriptors[topic.id] = memory, descriptor
        return True

    def _left(self, topic: int) -> Sequence[Memory]:
        """What earlier brokers had of a topic, in other sizes, the latest first."""
        if self._kernel is None or not (left := self._kernel.former_journals(topic)):
            return []
        from tempos_broker.journal.memory import Memory

        memories = []
        for descriptor, layout in left:
            try:
                memories.append(Memory(descriptor, layout))
            except OSError as error:
                log.warning("what an earlier journal has cannot be read: %s", one_line(error))
            finally:
                os.close(descriptor)
        return memories

    def _drop(self, topic: int) -> bool:
        self._refused.pop(topic, None)
        self._former.pop(topic, None)
        self._epochs.pop(topic, None)
        self._spares.pop(topic, None)
        if (descriptor := self._descriptors.pop(topic, -1)) >= 0:
            os.close(descriptor)
        return self.of.pop(topic, None) is not None


def _epochs_in(*memories: Memory) -> Epochs:
    """What a former life has left of epochs: in what was replaced, and in what took its place."""
    epochs = Epochs()
    for memory in memories:
        for position in {position >> INSIDE: position for position in memory.positions()}.values():
            if (entry := memory.read(position)) is not None:
                epochs.found(entry.epoch, position - entry.tickets[0], entry.tickets[0] + 1)
    return epochs


@dataclass(frozen=True, slots=True)
class _Found:
    """An entry, and how many before it are not there; that is not ``known``: at least so many."""

    entry: Entry
    missed: int
    known: bool


def _positions(memories: Sequence[Memory], after: int) -> Sequence[int]:
    """Those behind one whose events stand whole, once each and in their order."""
    first, *others = (memory.positions(after) for memory in memories)
    return sorted({*first}.union(*others)) if others else first


def _entry(memories: Sequence[Memory], position: int) -> Entry | None:
    return next((entry for each in memories if (entry := each.read(position)) is not None), None)


def _next(
    memories: Sequence[Memory], epochs: Epochs, positions: Sequence[int], after: int, most: int
) -> tuple[list[_Found], bool]:
    """The first entries, and whether there are more."""
    from tempos_broker.journal.memory import now

    entries: list[_Found] = []
    before = after
    for position in positions:
        if len(entries) == most:
            return entries, True
        entry = _entry(memories, position)
        if entry is None:
            # Overwritten since: what came after it tells how many it was.
            continue
        missed, known = epochs.between(before, position) if before else (0, True)
        if (missed or not known) and now() - entry.at_ns < HELD_UP:
            break
        entries.append(_Found(entry, missed, known))
        before = position
    return entries, False


def _told(found: _Found) -> dict[str, Any]:
    from tempos_broker.journal.memory import now

    entry = found.entry
    return {
        "position": entry.position,
        "epoch": entry.epoch,
        "tickets": list(entry.tickets),
        "time": round(time.time() - (now() - entry.at_ns) / 1e9, 6),
        "length": entry.length,
        "payload": None if entry.payload is None else base64.b64encode(entry.payload).decode(),
        "missed": found.missed,
        "at_least": not found.known,
    }
