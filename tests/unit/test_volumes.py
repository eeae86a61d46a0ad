"""Bytes on the fast path count from when a broker goes by them; what the kernel had before is of others."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import Any, cast

from tempos import Reason
from tempos.model import Volume
from tempos_broker.account.ledger import Ledger
from tempos_broker.counting import Counting
from tempos_broker.paths import LocalTickets
from tempos_fastpath.layout import decode_counters, decode_volumes


class Kernel:
    """As much of a fast path as bytes are asked of."""

    def __init__(self) -> None:
        self.has: dict[int, Volume] = {}

    def volumes(self, topics: Iterable[int]) -> Mapping[int, Volume]:
        return {topic: self.has[topic] for topic in topics if topic in self.has}


def test_what_was_there_before_is_taken_off_and_what_begins_anew_is_never_negative() -> None:
    kernel = Kernel()
    counting = Counting(LocalTickets(), cast("Any", kernel), Ledger(()), {})
    kernel.has = {1: Volume(1000, 30), 2: Volume(5, 0)}
    assert counting.fast_volume(1) == (1000, 30)
    counting.volumes_from_here([1, 3])
    assert (counting.fast_volume(1), counting.fast_volume(2), counting.fast_volume(3)) == (
        (0, 0),
        (5, 0),
        (0, 0),
    )
    kernel.has[1], kernel.has[3] = Volume(1500, 31), Volume(7, 7)
    assert (counting.fast_volume(1), counting.fast_volume(3)) == ((500, 1), (7, 7))
    kernel.has[1] = Volume(10, 0)
    assert counting.fast_volume(1) == (0, 0)
    counting.volumes_from_here([1])
    kernel.has[1] = Volume(40, 0)
    assert counting.fast_volume(1) == (30, 0)


def test_bytes_and_counts_of_a_row_are_kept_apart() -> None:
    width = len(Reason) + 2
    rows = array("Q", bytes(8 * 3 * width))
    rows[width], rows[width + 1], rows[2 * width - 1] = 640, 10, 7
    rows[2 * width + 1 + Reason.TTL] = 4
    assert decode_counters(memoryview(rows), 5) == {6: {Reason.FORWARDED: 10}, 7: {Reason.TTL: 4}}
    assert decode_volumes(memoryview(rows), 5) == {6: Volume(640, 7)}
