"""Where holders stand: the same whether it is searched or remembered."""

from __future__ import annotations

import pytest

from tempos_broker.account.accounts import Holder
from tempos_broker.account.positions import Position, Positions

TOPIC, EPOCH = 5, 4


def groups_of(*sizes: int) -> tuple[tuple[str, tuple[Holder, ...]], ...]:
    """The first holder of each is in all."""
    return tuple(
        (f"g{number}", tuple(Holder("10.0.0.1", place and 100 * number + place, 1) for place in range(size)))
        for number, size in enumerate(sizes)
    )


@pytest.mark.parametrize("sizes", [(1, 2, 20), (1,) * 30, (3, 20, 1) * 10])
def test_a_holder_is_found_in_the_first_group_that_it_is_in(sizes: tuple[int, ...]) -> None:
    known, groups = Positions(), groups_of(*sizes)
    for number, (name, holders) in enumerate(groups):
        assert known.number(TOPIC, EPOCH, groups, name) == number
        for place, holder in enumerate(holders):
            at = Position(place, len(holders))
            assert known.of(TOPIC, EPOCH, groups, number, holder) == at
            assert known.find(TOPIC, EPOCH, groups, holder) == (at if place else Position(0, sizes[0]))
    stranger = Holder("10.0.0.9", 1, 1)
    assert known.find(TOPIC, EPOCH, groups, stranger) is known.number(TOPIC, EPOCH, groups, "h") is None
    assert known.of(TOPIC, EPOCH, groups, 0, stranger) is None
    # An epoch that is closed may have its number again.
    known.forget(TOPIC, EPOCH)
    other = groups[::-1]
    assert known.number(TOPIC, EPOCH, other, "g0") == len(sizes) - 1
