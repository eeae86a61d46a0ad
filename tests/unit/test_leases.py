"""Leases end when they are over, and nobody else's is looked at for that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos_broker.account.accounts import Holder
from tempos_broker.members.leases import Leases

Steps = st.lists(
    st.tuples(st.sampled_from(["begin", "renew", "end", "look"]), st.integers(0, 5), st.integers(0, 40))
)


def at(number: int) -> Holder:
    return Holder(f"10.0.0.{number}", 5000, 1)


class Kept:
    """The leases of holders, and how often each was looked at."""

    def __init__(self) -> None:
        self.ends: dict[Holder, float] = {}
        self.looks = 0
        self.leases = Leases(self._earliest)

    def _earliest(self, holder: Holder) -> float | None:
        self.looks += 1
        return self.ends.get(holder)

    def begin(self, holder: Holder, ends: float) -> None:
        self.ends[holder] = ends
        self.leases.begun(holder, ends)


@given(Steps)
def test_who_is_due_is_who_would_be_found_by_looking_at_everybody(
    steps: list[tuple[str, int, int]],
) -> None:
    kept = Kept()
    now = 0.0
    for what, number, after in steps:
        holder = at(number)
        match what:
            case "begin":
                kept.begin(holder, now + after + 1)
            case "renew" if holder in kept.ends:
                # Only ever later, and without a word.
                kept.ends[holder] += after
            case "end":
                kept.ends.pop(holder, None)
            case "look":
                now += after
                expected = {each for each, ends in kept.ends.items() if ends <= now}
                found = set()
                for each in kept.leases.due(now):
                    if kept.ends.get(each, now + 1) <= now:
                        del kept.ends[each]
                        found.add(each)
                assert found == expected
        assert kept.leases.next() == min(kept.ends.values(), default=None)


@pytest.mark.parametrize("members", [10, 2000])
def test_a_join_looks_at_a_few_leases_however_many_there_are(members: int) -> None:
    kept = Kept()
    for number in range(members):
        kept.begin(Holder(f"10.0.{number // 250}.{number % 250}", 1, 1), 10 + number / members)
    kept.leases.next()
    kept.looks = 0
    kept.begin(Holder("10.9.0.1", 1, 1), 21.0)
    assert kept.leases.next() == 10.0
    assert kept.looks <= 2
    # All are renewed: each is looked at once in a lease's time, not at each join.
    for holder in kept.ends:
        kept.ends[holder] += 2.5
    kept.looks = 0
    for _ in range(20):
        assert kept.leases.next() == 12.5
    assert kept.looks <= members + 22
