"""Members that are picked by the source: an even table, of which only that moves that must."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tempos import Member, Pick
from tempos._abi import SPREAD_SLOTS
from tempos._spread import slot_of, slots_of


def members(count: int, weights: dict[int, int] | None = None) -> list[Member]:
    return [Member(f"10.0.2.{n}", 2055, weight=(weights or {}).get(n, 1)) for n in range(count)]


def by_name(some: list[Member]) -> list[str]:
    return [str(some[place]) for place in slots_of(some)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 48])
def test_each_member_has_about_as_many_slots(count: int) -> None:
    shares = Counter(slots_of(members(count)))
    assert len(shares) == count
    wanted = SPREAD_SLOTS / count
    assert all(abs(share - wanted) <= 4 * wanted**0.5 for share in shares.values())


def test_a_weight_is_a_multiple_of_others_shares() -> None:
    shares = Counter(slots_of(members(4, {0: 3})))
    assert abs(shares[0] / SPREAD_SLOTS - 3 / 6) < 0.05


def test_over_a_thousand_changes_only_what_must_moves() -> None:
    choose = random.Random(7)
    here = members(8)
    away: list[Member] = []
    for _ in range(1000):
        before = by_name(here)
        if away and (len(here) < 3 or choose.random() < 0.5):
            come = away.pop(choose.randrange(len(away)))
            here.insert(choose.randrange(len(here) + 1), come)
            after = by_name(here)
            assert {new for old, new in zip(before, after, strict=True) if old != new} <= {str(come)}
            moved, share = sum(old != new for old, new in zip(before, after, strict=True)), 1 / len(here)
        else:
            gone = here.pop(choose.randrange(len(here)))
            away.append(gone)
            after = by_name(here)
            assert {old for old, new in zip(before, after, strict=True) if old != new} <= {str(gone)}
            moved, share = before.count(str(gone)), 1 / (len(here) + 1)
        assert moved / SPREAD_SLOTS <= share + 0.06


def test_sources_fall_into_all_slots_alike() -> None:
    seen = Counter(
        slot_of(f"10.0.{high}.{low}", 40000, Pick.SOURCE) for high in range(64) for low in range(256)
    )
    assert len(seen) == SPREAD_SLOTS
    assert max(seen.values()) < 64
    ports = {slot_of("10.0.0.1", port, Pick.SOURCE) for port in range(1024, 2048)}
    assert len(ports) == 1, "the port is nothing to go by"
    assert (
        len({slot_of("10.0.0.1", port, Pick.SOURCE_PORT) for port in range(1024, 2048)}) > SPREAD_SLOTS // 2
    )
