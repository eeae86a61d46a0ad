"""Of many combinations a few that have every two values together: what a short form can afford."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any


def covering(*dimensions: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Combinations of one value of each dimension, in which any two values of different ones come together.

    The same ones each time: the next is the first of those that bring the most pairs that were not there.
    """
    combinations = list(itertools.product(*(range(len(each)) for each in dimensions)))
    wanted = set().union(*map(_pairs, combinations))
    chosen = []
    while wanted:
        chosen.append(max(combinations, key=lambda each: len(wanted & _pairs(each))))
        wanted -= _pairs(chosen[-1])
    return [tuple(dimensions[n][at] for n, at in enumerate(each)) for each in chosen]


def _pairs(combination: Iterable[int]) -> set[tuple[tuple[int, int], ...]]:
    """Each value with its dimension: by itself, and beside each other one."""
    return set(itertools.combinations_with_replacement(enumerate(combination), 2))
