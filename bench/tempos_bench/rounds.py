"""Interleaves the variants of a measurement, so that what disturbs one disturbs the others as well."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def interleave(
    rounds: int, variants: Mapping[str, Callable[[], T]], progress: Callable[[str], None]
) -> dict[str, list[T]]:
    """Run every variant once a round, each round in another order; the results by variant, in rounds."""
    results: dict[str, list[T]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            progress(f"round {number + 1} of {rounds}: {name}")
            results[name].append(variants[name]())
    return results


def cores() -> tuple[int, int]:
    """Two cores to pin to; the same one twice where there is no second."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[1 % len(usable)]
