"""What `tempos fastpath` prints of fast paths, however many topics they have."""

from __future__ import annotations

import pytest

from tempos_fastpath.command import spans


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((), ""),
        ((7,), "7"),
        ((4, 1), "1, 4"),
        ((5, 4), "4 to 5"),
        ((1, *range(256, 10_000), 65_534), "1, 256 to 9999, 65534"),
    ],
)
def test_topics_are_named_in_a_line_that_can_be_read(numbers: tuple[int, ...], said: str) -> None:
    assert spans(numbers) == said
