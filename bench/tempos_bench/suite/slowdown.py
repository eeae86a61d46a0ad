"""Whether the benchmark would notice: two equal runs, and one with a program that is a tenth slower.

The run time of the fast path's program (`program-time`) and its rate (`redirect`) are measured three
times each, as `tempos bench run` would. The second run must compare as no regression of the first, and
the third, with a delay in the program that makes the figure a tenth worse, as one. How much delay a tenth
is, is measured first. What is slowed is a copy of the program (see :mod:`tempos_bench.measure.slowed`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tempos import TemposError
from tempos_bench.measure.slowed import slowed
from tempos_bench.measure.stats import ratios
from tempos_bench.report import compare
from tempos_bench.report.compare import Change, Comparison
from tempos_bench.report.figures import Better, Figure, Report, judge, now
from tempos_bench.runs.run import Run, as_json
from tempos_bench.suite import program_time, redirect

#: Steps of delay that are measured to know what one costs.
_SOUNDING = 48


@dataclass(frozen=True, slots=True)
class Parameters:
    """``slowdown`` percent. Rounds and frames as in the scenarios `program-time` and `redirect`."""

    slowdown: float
    program_rounds: int
    program_frames: int
    repetitions: int
    rounds: int
    frames: int
    payload: int


Measure = Callable[[Run], Sequence[Figure]]


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    time = program_time.Parameters(p.program_rounds, p.program_frames, p.payload)
    rate = redirect.Parameters(p.repetitions, p.rounds, p.frames, p.payload)

    def run_time(part: Run) -> Sequence[Figure]:
        return program_time.run(time, part)

    def frames(part: Run) -> Sequence[Figure]:
        return redirect.run(rate, part)

    plain = _measured("run time: first", run_time, progress, 0)
    sounded = _measured("run time: sounding", run_time, progress, _SOUNDING)
    # As multiples of the empty program's time, which suffers what the machine suffers.
    times, times_sounded = _to_empty(plain), _to_empty(sounded)
    step = (times_sounded - times) / _SOUNDING * _value(plain, "empty program")
    if not step > 0:
        raise TemposError(f"{_SOUNDING} steps of delay took no time: the machine is too busy to measure")
    steps = round(times * _value(plain, "empty program") * p.slowdown / 100 / step)
    figures = [Figure("one step of delay", step, "ns", Better.NEITHER)]
    figures += _judged("run time", "fast path", plain, run_time, progress, steps)
    plain = _measured("rate: first", frames, progress, 0)
    # A frame must take a tenth longer for a rate that is 1 / 1.1; the rate is a tenth lower at 1 / 0.9.
    longer = 1e9 / _value(plain, "fast path") * (1 / (1 - p.slowdown / 100) - 1)
    return [*figures, *_judged("rate", "ratio", plain, frames, progress, round(longer / step))]


def _judged(
    name: str, figure: str, first: Report, measure: Measure, progress: Run, steps: int
) -> list[Figure]:
    equal = _compared(first, _measured(f"{name}: second", measure, progress, 0))
    slower = _compared(first, _measured(f"{name}: slowed", measure, progress, steps))
    change, noise = _of(slower, figure), _of(equal, figure)
    return [
        Figure(f"{name}: delay put in", steps, "steps"),
        Figure(f"{name}: change between equal runs", _percent(noise), "%"),
        Figure(f"{name}: change when slowed", _percent(change), "%"),
        Figure(f"{name}: regressions between equal runs", len(equal.worse), "figures", Better.LOWER),
        Figure(f"{name}: regressions found when slowed", len(slower.worse), "figures", Better.NEITHER),
    ]


def _measured(name: str, measure: Measure, progress: Run, steps: int) -> Report:
    """One run, with ``steps`` of delay; the first and second are built in the same way as the slowed one."""
    part = progress.part(name)
    with slowed(steps):
        figures = measure(part)
    if part.interrupted:
        raise KeyboardInterrupt
    for variant, values in part.rounds.items():
        for value in values:
            progress.keep(f"{name}: {variant}", as_json(value))
    return Report(name, {}, now(), judge(figures, {}))


def _compared(old: Report, new: Report) -> Comparison:
    return compare.compare({"": old}, {"": new})


def _of(found: Comparison, figure: str) -> Change:
    return next(change for change in found.changes if change.figure == figure)


def _percent(change: Change) -> float:
    return ((change.ratio or float("nan")) - 1) * 100


def _to_empty(measured: Report) -> float:
    rounds = {row.name: [value or math.nan for value in row.rounds] for row in measured.rows}
    return ratios(rounds["fast path"], rounds["empty program"]).median


def _value(measured: Report, name: str) -> float:
    return next(row.value or float("nan") for row in measured.rows if row.name == name)
