"""Journals in the kernel: an array of cells for each topic that has one, which programs and processes write.

The rules of that memory are in fastpath/bpf/journal.h. It is found by the row of its topic, and goes with the
pinned maps from one broker to the next; one that another takes the place of is pinned by itself until that
has followed it. One that a kernel refuses is an obstacle to nothing but the fast path
of its topic. Blocking: swapping one waits for a grace period.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from tempos import Topic
from tempos._abi import JOURNAL_CELL
from tempos._rows import Rows
from tempos._slots import JournalLayout, is_owned, journal_owner
from tempos.errors import one_line
from tempos_bpf.errors import BpfError
from tempos_bpf.maps import Map, MapType, create_map
from tempos_fastpath.errors import NotPinned
from tempos_fastpath.structs import struct_bytes, struct_from, struct_new
from tempos_fastpath.survival.pins import Pins

#: <linux/bpf.h>
_MMAPABLE, _INNER_MAP = 1 << 10, 1 << 12
_FLAGS = _MMAPABLE | _INNER_MAP
_log = logging.getLogger(__name__)


class KernelJournals:
    """The map `journals`; ``rows``: where topics stand in it."""

    def __init__(self, table: Map, rows: Rows, pins: Callable[[], Pins | None] = lambda: None) -> None:
        """``pins``: where what is to outlive this process is pinned; None: nothing is."""
        self._table = table
        self._pins = pins
        self._row_of = rows.of
        self._held: dict[int, Map] = {}
        self._layouts: dict[int, JournalLayout] = {}
        #: Of earlier brokers, the latest first.
        self._former: dict[int, list[Map]] = {}
        #: What was replaced by something that nobody has asked for yet, so that it may be taken back.
        self._replaced: dict[int, Map] = {}
        self._refused: dict[int, str] = {}
        self._changing = threading.Lock()

    def configure(self, topics: Sequence[Topic]) -> None:
        """Have those of these topics, and no others: also of what an earlier broker left."""
        known = {self._row_of[topic.id] for topic in topics if topic.journal}
        with self._changing:
            for row in range(self._table.max_entries):
                # Each that is taken out waits for a grace period.
                if row not in known and self._table.lookup(row) is not None:
                    self._table.delete(row)
            pins = self._pins()
            for row in () if pins is None else pins.journals():
                if row not in known:
                    self._pin(row, None)
        for topic in topics:
            self.put(topic)

    def put(self, topic: Topic) -> None:
        """Have the journal of a topic as its options say."""
        if not topic.journal:
            self.drop(topic.id)
            return
        layout = JournalLayout.of(topic.journal, topic.journal_room)
        with self._changing:
            if self._layouts.get(topic.id) == layout:
                return
            self._refused.pop(topic.id, None)
            row = self._row_of[topic.id]
            try:
                if topic.id not in self._held and topic.id not in self._former:
                    self._find_pinned(row, topic)
                before = self._held.get(topic.id) or self._left(row, topic)
                replaced = self._replaced.get(topic.id)
                if before is not None and _layout(before) == layout:
                    made = before
                elif before is not None and replaced is not None and _layout(replaced) == layout:
                    made = self._replaced.pop(topic.id)
                    self._table.update(row, made)
                    before.close()
                    self._pin(row, None)
                else:
                    made = _make(layout, before)
                    try:
                        if before is not None:
                            self._pin(row, before)
                        self._table.update(row, made)
                    except BaseException:
                        made.close()
                        raise
                    if before is not None:
                        self._replace(topic.id, before)
            except BpfError as error:
                self._refused[topic.id] = f"its journal: {one_line(error)}"
                self._forget(topic.id)
                if self._table.lookup(row) is not None:
                    self._table.delete(row)
                return
            self._held[topic.id], self._layouts[topic.id] = made, layout

    def drop(self, topic: int) -> None:
        """A topic has none any more; it has its row still."""
        with self._changing:
            self._refused.pop(topic, None)
            if self._forget(topic):
                self._table.delete(self._row_of[topic])
                self._pin(self._row_of[topic], None)

    def journal(self, topic: int, layout: JournalLayout) -> int | None:
        """That of a topic's journal of that size, the caller's to close; None: there is none."""
        with self._changing:
            if self._layouts.get(topic) != layout:
                return None
            self._let_go(topic)
            return os.dup(self._held[topic].fd)

    def former_journals(self, topic: int) -> list[tuple[int, JournalLayout]]:
        """Once: descriptors, the caller's to close, of what earlier brokers left in other sizes.

        Also where such a broker had begun to replace one, and did not live to take over what it had.
        """
        found = []
        with self._changing:
            for former in self._former.pop(topic, ()):
                with former:
                    if (layout := _layout(former)) is not None:
                        found.append((os.dup(former.fd), layout))
        return found

    def followed(self, topic: int) -> None:
        """What is in force has all that fits of those before."""
        with self._changing:
            if (row := self._row_of.get(topic)) is not None:
                self._pin(row, None)

    def refusal(self, topic: int) -> str:
        """Why the kernel has none of a topic that should have one; empty: it has."""
        return self._refused.get(topic, "")

    def close(self) -> None:
        """Let go of them; what is pinned stays. Safe to call twice."""
        for topic in list(self._held):
            self._forget(topic)
        while self._former:
            for each in self._former.popitem()[1]:
                each.close()

    def _left(self, row: int, topic: Topic) -> Map | None:
        """What an earlier broker left of the topic there; of another one that had its id nothing is taken."""
        if (left := self._table.inner(row)) is None:
            return None
        try:
            identity = int(_head(left).identity)
        except BpfError:
            left.close()
            raise
        if is_owned(identity, journal_owner(topic.name, topic.framing.value)):
            return left
        left.close()
        return None

    def _find_pinned(self, row: int, topic: Topic) -> None:
        """What an earlier broker had begun to replace."""
        pins = self._pins()
        if pins is None or row not in pins.journals():
            return
        former = self._former[topic.id] = pins.former_journals(row)
        owner = journal_owner(topic.name, topic.framing.value)
        if not all(is_owned(int(_head(each).identity), owner) for each in former):
            for each in self._former.pop(topic.id):
                each.close()
            self._pin(row, None)

    def _pin(self, row: int, former: Map | None) -> None:
        """Have what was a topic's journal so far outlive this process, or let go of it."""
        if (pins := self._pins()) is None:
            return
        try:
            if former is None:
                pins.drop_journals(row)
            else:
                pins.put_journal(row, former)
        except NotPinned as error:
            _log.warning("a journal that is replaced does not outlive this broker: %s", one_line(error))

    def _replace(self, topic: int, before: Map) -> None:
        if topic not in self._held:
            self._former.setdefault(topic, []).insert(0, before)
        elif topic in self._replaced:
            before.close()
        else:
            self._replaced[topic] = before

    def _let_go(self, topic: int) -> None:
        if (replaced := self._replaced.pop(topic, None)) is not None:
            replaced.close()

    def _forget(self, topic: int) -> bool:
        self._layouts.pop(topic, None)
        self._let_go(topic)
        if (held := self._held.pop(topic, None)) is None:
            return False
        held.close()
        return True


def _make(layout: JournalLayout, before: Map | None) -> Map:
    """One of that size, with the epochs of the one before, so that the programs find their places."""
    made = create_map(
        "journal",
        MapType.ARRAY,
        key_size=4,
        value_size=JOURNAL_CELL,
        max_entries=layout.all_cells,
        flags=_FLAGS,
    )
    try:
        told = before.lookup(0) if before is not None else None
        head = struct_from("struct tempos_journal", told) if told else struct_new("struct tempos_journal")
        head.slots, head.cells, head.bytes = layout.slots, layout.cells, layout.bytes
        made.update(0, struct_bytes(head))
    except BaseException:
        made.close()
        raise
    return made


def _head(journal: Map) -> Any:
    """Its head; raises BpfError where that is none."""
    if journal.value_size != JOURNAL_CELL:
        raise BpfError(f"a journal of cells of {journal.value_size} bytes", errno.EINVAL)
    return struct_from("struct tempos_journal", journal.lookup(0) or bytes(JOURNAL_CELL))


def _layout(journal: Map) -> JournalLayout | None:
    """How large one is; None: it is of no use."""
    head = _head(journal)
    layout = JournalLayout(int(head.slots), int(head.cells), int(head.bytes))
    return layout if journal.max_entries == layout.all_cells else None
