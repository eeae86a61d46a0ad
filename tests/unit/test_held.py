"""Loaded programs at hand by their settings: those in use and the last few others."""

from __future__ import annotations

from typing import cast

from tempos_bpf.held import SPARE, Held
from tempos_bpf.objects import BpfObject


class Loaded:
    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_those_in_use_stay_and_of_the_others_the_last_ones() -> None:
    held, all_of_them = Held(), [Loaded() for _ in range(SPARE + 4)]
    for number, each in enumerate(all_of_them):
        held.put(bytes([number]), cast(BpfObject, each))
    # What was used again is not among those that were used long ago.
    assert held.get(bytes([1])) is all_of_them[1]
    held.keep([bytes([0])])
    assert [each.closed for each in all_of_them] == [0, 0, 1, 1, 1] + [0] * (SPARE - 1)
    assert held.get(bytes([2])) is None
    held.close()
    held.close()
    assert {each.closed for each in all_of_them} == {1}
