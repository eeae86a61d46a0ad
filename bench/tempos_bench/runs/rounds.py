"""Interleaves the variants of a measurement, so that what disturbs one disturbs the others as well."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from tempos_bench.runs.run import Run

T = TypeVar("T")


def interleave(rounds: int, variants: Mapping[str, Callable[[], T]], run: Run) -> dict[str, list[T]]:
    """Run every variant once a round, each round in another order; the results by variant, in rounds.

    Every result is kept in ``run``. After Ctrl-C the results are those of the rounds that are complete;
    if none is, the interrupt goes on.
    """
    results: dict[str, list[T]] = {name: [] for name in variants}
    run.expect(rounds * len(variants))
    with run.keeping(lambda: all(results.values())):
        for number in range(rounds):
            for name in turned(list(variants), number):
                with run.variant(f"round {number + 1} of {rounds}: {name}"):
                    result = variants[name]()
                results[name].append(result)
                run.keep(name, result)
    complete = min(map(len, results.values()))
    return {name: values[:complete] for name, values in results.items()}


def in_turn(variants: Mapping[str, Callable[[], T]], run: Run) -> dict[str, T]:
    """Run every variant once, for what is counted rather than compared; the results by variant.

    Every result is kept in ``run``. After Ctrl-C the results are those of the variants that are finished;
    if none is, the interrupt goes on.
    """
    results: dict[str, T] = {}
    run.expect(len(variants))
    with run.keeping(lambda: results):
        for name, variant in variants.items():
            with run.variant(name):
                result = variant()
            results[name] = result
            run.keep(name, result)
    return results


def warm_up(variants: Mapping[str, Callable[[], object]], run: Run) -> None:
    """Run every variant once, for nothing: caches, queues and neighbours are warm afterwards."""
    for name, variant in variants.items():
        run(f"warming up: {name}")
        variant()


def cores() -> tuple[int, int]:
    """Two cores to pin to; the same one twice where there is no second."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[1 % len(usable)]


def turned(names: Sequence[T], number: int) -> list[T]:
    """``names`` in the order in which round ``number`` takes them: everyone is first in turn."""
    turn = number % len(names)
    return [*names[turn:], *names[:turn]]
