"""Between two epochs of a journal places stay free for what is drawn while the route is swapped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tempos_broker.journal.spare import Spare

SLOTS = 1 << 20


def test_a_swap_takes_a_second_of_what_comes() -> None:
    spare = Spare()
    spare.begins(0, SLOTS, 0.0)
    assert spare.begins(20_000 * 60, SLOTS, 60.0) == 20_000
    spare.ended(20_000 * 60 + 400, 60.02)
    # Right behind it another one: the rate is still known.
    assert 5_000 <= spare.begins(10, SLOTS, 60.1) <= SLOTS // 32


def test_swaps_that_last_get_more() -> None:
    spare = Spare()
    spare.begins(0, SLOTS, 0.0)
    spare.begins(200_000, SLOTS, 10.0)
    spare.ended(240_000, 12.0)
    assert spare.begins(200_000, SLOTS, 20.0) >= 2 * 40_000


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**6), st.floats(0, 100)), max_size=20),
    st.integers(3, 20),
)
def test_never_more_than_an_eighth_and_never_nothing(swaps: list[tuple[int, int, float]], power: int) -> None:
    spare, now, slots = Spare(), 0.0, 1 << power
    for drawn, more, seconds in swaps:
        now += seconds
        assert min(slots // 8, max(slots // 64, 1)) <= spare.begins(drawn, slots, now) <= slots // 8
        spare.ended(drawn + more, now + 0.02)
