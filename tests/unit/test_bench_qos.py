"""Scenarios of the quality classes: where a curve bends, what is carried, and pictures of it all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tempos_bench.measure import load, samples
from tempos_bench.report import plot
from tempos_bench.report.figures import Report
from tempos_bench.runs import scenario
from tempos_bench.suite.qos_rate import Step, bend


def steps(*values: tuple[float, float, float]) -> list[Step]:
    """Rate, share lost, p99."""
    return [Step(rate, rate, lost, p99 / 2, p99) for rate, lost, p99 in values]


@pytest.mark.parametrize(
    ("curve", "knee"),
    [
        (steps((100, 0, 90), (1000, 0, 10), (2000, 0, 49), (3000, 0.001, 20)), math.nan),
        (steps((100, 0, 90), (1000, 0, 10), (2000, 0, 51), (3000, 0, 60)), 2000),
        (steps((100, 0, 90), (1000, 0, 10), (2000, 0.002, 9), (3000, 0.5, 9)), 2000),
        # One bad step between good ones was a disturbance; the last one has no other to confirm it.
        (steps((1000, 0, 10), (2000, 0, 900), (3000, 0, 10), (4000, 0, 51)), 4000),
        # Below the base nothing is judged.
        (steps((100, 0.5, 900), (500, 0.5, 900), (1000, 0, 10), (2000, 0, 10)), math.nan),
    ],
)
def test_a_class_bends_where_two_steps_in_turn_are_bad(curve: list[Step], knee: float) -> None:
    found = bend(curve, base=1000, lost_share=0.001, times=5)
    assert found == knee or (math.isnan(found) and math.isnan(knee))


def test_what_arrives_after_the_sending_is_not_carried() -> None:
    # 1,000 events/s for 2 s, and then as many again that had waited in a queue.
    arrived = [number * 1000 for number in range(4000)]
    assert load.rate_within(arrived, 2.0) == pytest.approx(1000, rel=0.01)


def sample(variant: str, load_name: str, quality: str, times: list[int]) -> dict[str, Any]:
    return {
        "variant": variant,
        "load": load_name,
        "class": quality,
        "from": "schedule",
        **samples.pack(times),
    }


def report(name: str, **parts: Any) -> Report:
    rows = ({"name": "x", "value": 1.0, "unit": "us", "target": None, "met": None},)
    return Report.from_json(
        {"scenario": name, "machine": {}, "started": "", "description": "d", "rows": rows, **parts}
    )


TIMES = [50_000 + 13 * number for number in range(3000)]


@pytest.mark.parametrize(
    ("name", "loads", "pictures"),
    [
        ("qos-slow", ("SQ alone", "BQ alone", "BQ x1", "BQ as much as can be"), {"latency"}),
        ("qos-fast", ("SQ alone", "BQ x1"), {"latency"}),
        ("qos-workflows", ("SQ alone", "BQ alone", "1 SQ + 1 BQ", "1 SQ + 3 BQ"), {"alone", "beside"}),
    ],
)
def test_distributions_are_drawn(
    tmp_path: Path, name: str, loads: tuple[str, ...], pictures: set[str]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    records = [sample(v, each, q, TIMES) for v in ("a", "b") for each in loads for q in ("SQ", "BQ", "BQ 2")]
    drawn = plot.draw(report(name, samples=[*records, sample("a", loads[0], "SQ", [])]), tmp_path)
    assert {path.name for path in drawn} == {f"{name}-{picture}.png" for picture in pictures}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_curves_are_drawn_and_what_was_interrupted_is_not(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    headers = ["load", "class", "asked/s", "offered/s", "lost %", "p50 us", "p99 us"]
    rows = [
        [f"{path}, {which}", quality, rate, rate, rate / 1000, 20.0, None if rate == 9 else 40.0]
        for path in ("slow path", "fast path") for which in ("both", "SQ alone")
        for quality in ("SQ", "BQ") for rate in (9, 100, 1000)
    ]  # fmt: skip
    table = {"title": "t", "headers": headers, "rows": rows, "left": 2}
    (drawn,) = plot.draw(report("qos-rate", tables=[table]), tmp_path)
    assert drawn.name == "qos-rate-latency.png"
    assert plot.draw(report("qos-rate"), tmp_path) == []
    assert plot.draw(report("qos-slow"), tmp_path) == []
    assert plot.draw(report("blast"), tmp_path) == []


def test_samples_are_put_together_by_load_and_class() -> None:
    records = [
        sample("a", "x", "SQ", [1000, 2000]),
        sample("a", "x", "SQ", [3000]),
        sample("b", "x", "SQ", [5]),
    ]
    found = plot.curves(report("qos-slow", samples=records))
    assert found == {("a", "x", "SQ"): [1.0, 2.0, 3.0], ("b", "x", "SQ"): [0.005]}


@pytest.mark.parametrize("name", ["qos-slow", "qos-fast", "qos-workflows", "qos-rate"])
def test_the_scenarios_load_also_when_short(name: str) -> None:
    assert scenario.load(name).parameters.payload == 32
    assert scenario.load(name, short=True).parameters.rounds == 1
