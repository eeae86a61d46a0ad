"""Where topics stand in the kernel's tables: the map `rows` of wide ids, and how long the others are.

The map is in memory that the programs and this process share, and outlives both: what an earlier broker left
there says in which rows its topics count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from tempos import LocalError
from tempos._abi import IDS, NARROW
from tempos._rows import Rows
from tempos._slots import EPOCHS, slots
from tempos.histogram import Latency
from tempos_bpf.maps import Map, SharedArray
from tempos_fastpath.layout import decode_latency, lost_copies, runs_of

Counted = TypeVar("Counted")

#: Of the maps whose length goes by the topics: entries for each row.
_PER_ROW: Mapping[str, int] = {
    "routes": 1,
    "small_routes": 1,
    "journals": 1,
    "tickets": slots(1),
    "copies": EPOCHS,
    "counters": 1,
    "topics": 1,
}

#: How often an account is read that seems to miss copies: those on their way are there a moment later.
_LOOKS = 3


def sizes(rows: Rows, *more: str) -> dict[str, int]:
    """How many entries the maps are made with; ``more``: others with one for each row."""
    return {name: rows.count * per_row for name, per_row in {**_PER_ROW, **dict.fromkeys(more, 1)}.items()}


def of_topics(
    map_: Callable[[str], Map],
    rows: Rows,
    topics: Iterable[int] | None,
    decode: Callable[[memoryview, int], Mapping[int, Counted]],
) -> dict[int, Counted]:
    """What ``decode`` finds in the map ``counters`` of these topics, or of all that have a row.

    A system call reads those whose rows follow each other.
    """
    table, row_of = map_("counters"), rows.of
    wanted = row_of if topics is None else [topic for topic in topics if topic in row_of]
    topic_of = {row_of[topic]: topic for topic in wanted}
    found: dict[int, Counted] = {}
    for first, count in runs_of(topic_of):
        counted = decode(table.sum_rows(first, count), first)
        found |= {topic_of[row]: counts for row, counts in counted.items()}
    return found


def lost_of(copies: Map, row: int, groups: int) -> list[int]:
    """Copies for each of so many groups that were not sent, by a row of the map `copies`."""
    lost = [0] * groups
    for look in range(_LOOKS):
        now = lost_copies(copies.lookup_per_cpu(row) or (), groups)
        lost = [min(pair) for pair in zip(lost, now, strict=True)] if look else now
        if not any(lost):
            break
    return lost


def measured(table: Map, rows: Rows, topics: Iterable[int]) -> dict[int, Latency]:
    """What the map `latency` has of these topics, of those of which anything was."""
    known = [(topic, rows.of[topic]) for topic in topics if topic in rows.of]
    found = {topic: decode_latency(table.lookup_per_cpu(row) or ()) for topic, row in known}
    return {topic: each for topic, each in found.items() if each.program.count}


def measure_anew(table: Map, rows: Rows, topics: Iterable[int]) -> None:
    """What the map `latency` has of these topics, which have no route, is others'."""
    for row in (rows.of[topic] for topic in topics if topic in rows.of):
        if any(map(any, table.lookup_per_cpu(row) or ())):
            table.clear_per_cpu(row)


class KernelRows:
    """The map `rows`, written through our own memory."""

    def __init__(self, array: SharedArray) -> None:
        self._array = array
        self._of: memoryview | None = memoryview(array.memory).cast("H")
        #: What stands there.
        self._said = _wide(_told(self._of.tolist()))

    def configure(self, rows: Mapping[int, int]) -> None:
        """Have the rows of these topics, and of no others."""
        table, wanted = self._table, _wide(rows)
        for topic, row in self._said.items():
            if wanted.get(topic) != row:
                table[topic] = 0
        for topic, row in wanted.items():
            if self._said.get(topic) != row:
                table[topic] = row
        self._said = wanted

    def put(self, topic: int, row: int) -> None:
        """A topic stands in this row; all others as they are."""
        if topic >= NARROW:
            self._table[topic] = row

    def drop(self, topic: int) -> None:
        """A topic stands in none any more."""
        if topic >= NARROW:
            self._table[topic] = 0

    def close(self) -> None:
        """Safe to call twice."""
        if self._of is not None:
            self._of.release()
            self._of = None
        self._array.close()

    @property
    def _table(self) -> memoryview:
        if self._of is None:
            raise LocalError("the table of rows is closed")
        return self._of


def rows_in(table: Map) -> dict[int, int]:
    """What the map `rows` says: the row of each topic that there is, narrow ids included."""
    with memoryview(table.lookup(0) or b"").cast("H") as told:
        return _told(told.tolist())


def followed(table: Map) -> Rows:
    """The rows that an earlier broker gave, by its map."""
    rows = Rows()
    rows.follow(_wide(rows_in(table)))
    return rows


def _told(table: list[int]) -> dict[int, int]:
    wide = {topic: row for topic, row in enumerate(table[:IDS]) if topic >= NARROW and row}
    return {**{topic: topic for topic in range(NARROW)}, **wide}


def _wide(rows: Mapping[int, int]) -> dict[int, int]:
    return {topic: row for topic, row in rows.items() if topic >= NARROW}
