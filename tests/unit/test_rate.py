"""Token buckets: what is allowed in a burst, after a while, and to all together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tempos_broker.control import rate
from tempos_broker.control.rate import ALL, BURST, RateLimit


def test_a_source_has_its_burst_and_then_its_rate_and_others_do_not_feel_it() -> None:
    limit = RateLimit(10)
    assert sum(limit.allows("10.0.0.1", 5.0) for _ in range(100)) == 10 * BURST
    assert limit.allows("10.0.0.2", 5.0)
    assert sum(limit.allows("10.0.0.1", 5.5) for _ in range(100)) == 5
    # A clock that stands still gives nothing, and a long silence no more than a burst.
    assert not limit.allows("10.0.0.1", 5.5)
    assert sum(limit.allows("10.0.0.1", 5000.0) for _ in range(100)) == 10 * BURST


def test_forged_sources_get_no_more_than_all_may_and_the_table_stays_bounded() -> None:
    limit = RateLimit(10)
    served = sum(limit.allows(f"10.0.{n >> 8}.{n & 255}", 1.0) for n in range(20_000))
    assert served == 10 * ALL * BURST
    assert limit.sources == rate.MAX_SOURCES


@given(st.integers(1, 50), st.lists(st.tuples(st.floats(0, 0.5), st.sampled_from("ab")), max_size=200))
def test_never_more_than_burst_and_rate_in_any_stretch(
    per_second: int, asked: list[tuple[float, str]]
) -> None:
    limit, now, served = RateLimit(per_second), 0.0, []
    for pause, source in asked:
        now += pause
        if limit.allows(source, now):
            served.append((now, source))
    for source in "ab":
        times = [at for at, who in served if who == source]
        for first in range(len(times)):
            for last in range(first, len(times)):
                allowed = per_second * (BURST + times[last] - times[first])
                assert last - first + 1 <= allowed + 1e-6
