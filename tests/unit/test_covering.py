"""Combinations that have every two values together: all pairs, few combinations, and the same each time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from support.covering import covering

DIMENSIONS: list[tuple[Any, ...]] = [
    ("ab",),
    ("ab", "xyz"),
    ("abc", range(8), (False, True)),
    ("ab", "cd", "ef", "gh", "ij"),
    ("abcd", "abcd", "abcd", "xy", "z"),
    # Values that are the same to Python, and values that have no hash.
    ((0, False), ([1], [2]), (None, None)),
]


@pytest.mark.parametrize("dimensions", DIMENSIONS, ids=str)
def test_any_two_values_come_together_in_few_combinations(dimensions: tuple[Any, ...]) -> None:
    # By identity of place, for a dimension may have equal values.
    placed = [list(enumerate(dimension)) for dimension in dimensions]
    chosen = covering(*placed)
    for one, other in itertools.combinations(range(len(placed)), 2):
        found = {(each[one][0], each[other][0]) for each in chosen}
        assert found == set(itertools.product(range(len(placed[one])), range(len(placed[other]))))
    sizes = sorted(map(len, placed), reverse=True)
    assert len(chosen) == len({tuple(at for at, _ in each) for each in chosen})
    assert len(chosen) <= 2 * sizes[0] * (sizes[1] if len(sizes) > 1 else 1)
    assert chosen == covering(*placed)


def test_of_one_dimension_all_is_taken_and_of_an_empty_one_nothing() -> None:
    assert covering("abc") == [("a",), ("b",), ("c",)]
    assert covering("abc", "") == []
