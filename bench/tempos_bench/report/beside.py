"""What is charted of the scenarios that hold tempos beside other brokers: which figures, in which charts.

Scenarios whose name begins with `peers-`, and `director`, name their figures `CASE: WHO` (`32 B: NATS, raw`),
those of latency `CASE: WHO, PERCENTILE`. A chart shows one case, everybody in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tempos_bench.measure import samples
from tempos_bench.report.figures import Better, Report, Row

#: How the names of those scenarios begin.
BESIDE = ("peers-", "director")
#: More curves than this in one chart cannot be told apart.
MOST_CURVES = 10
#: Of latency these get bars; the curves show the rest.
_PERCENTILES = ("p50", "p99")
#: Units that are charted; ratios and losses stand in the table.
_CHARTED = ("us", "events/s", "datagrams/s", "s/million", "MB")
_RAW = ", raw"


@dataclass(slots=True)
class Bars:
    """One case; ``rows`` with who they are of, best first once :func:`bars` has returned."""

    title: str
    unit: str
    higher: bool
    rows: list[tuple[str, Row]] = field(default_factory=list)


def bars(report: Report) -> list[Bars]:
    """A chart for each case with more than one in it."""
    cases: dict[str, Bars] = {}
    for row in report.rows:
        case, _, who = row.name.partition(": ")
        if not who or row.value is None or row.unit not in _CHARTED:
            continue
        percentile = ""
        if row.unit == "us":
            who, _, percentile = who.rpartition(", ")
            if percentile not in _PERCENTILES:
                continue
        higher = Better(row.better) is Better.HIGHER
        title = ", ".join(part for part in (report.scenario, case, percentile) if part)
        title += f" ({'more' if higher else 'less'} is better)"
        unit = {"us": "µs"}.get(row.unit, row.unit)
        cases.setdefault(title, Bars(title, unit, higher)).rows.append((who, row))
    for chart in cases.values():
        chart.rows.sort(key=lambda pair: pair[1].value or 0.0, reverse=chart.higher)
    return [chart for chart in cases.values() if len(chart.rows) > 1]


def curves(report: Report) -> list[tuple[str, dict[str, Sequence[float]]]]:
    """Title and samples, microseconds: a chart a case, raw generators and client libraries apart."""
    charts: dict[str, dict[str, list[float]]] = {}
    for record, values in samples.readable(report.samples):
        case, _, who = str(record.get("variant", "")).partition(": ")
        if who:
            kind = "raw generators" if who.endswith((_RAW, f"{_RAW} batched")) else "client libraries"
            series = charts.setdefault(f"{report.scenario}, {case}: one-way latency, {kind}", {})
            series.setdefault(who, []).extend(values)
    shown: list[tuple[str, dict[str, Sequence[float]]]] = []
    for title, series in charts.items():
        names = sorted(series, key=lambda who: not who.startswith("tempos"))
        parts = (names[first : first + MOST_CURVES] for first in range(0, len(names), MOST_CURVES))
        shown += [(title, {who: series[who] for who in part}) for part in parts]
    return shown
