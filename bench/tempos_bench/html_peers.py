"""The part of the report that shows tempos beside other brokers: bars, best first, and latency curves.

Scenarios whose name begins with `peers-` name their figures `CASE: WHO` (`32 B: NATS, raw`), those of
latency `CASE: WHO, PERCENTILE`. A chart shows one case, everybody in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from tempos_bench import samples, svg
from tempos_bench.report import Better, Report, Row, number

PREFIX = "peers-"
#: Of latency these get bars; the curves show the rest.
_PERCENTILES = ("p50", "p99")
#: Units that are charted; ratios and losses stand in the table.
_CHARTED = ("us", "events/s", "datagrams/s", "s/million", "MB")
_RAW = ", raw"
#: More curves than this in one chart cannot be told apart.
_MOST_CURVES = 10


def section(reports: Mapping[str, Report]) -> str:
    """Every chart of every peers scenario; empty where there is none."""
    return "".join(
        "".join((*_bars(report), *curves(report)))
        for name, report in reports.items()
        if name.startswith(PREFIX)
    )


def curves(report: Report) -> list[str]:
    """Latency by percentile: a chart a case, raw generators and client libraries apart."""
    charts: dict[str, dict[str, list[float]]] = {}
    for record, values in samples.readable(report.samples):
        case, _, who = str(record.get("variant", "")).partition(": ")
        if who:
            kind = "raw generators" if who.endswith((_RAW, f"{_RAW} batched")) else "client libraries"
            series = charts.setdefault(f"{report.scenario}, {case}: one-way latency, {kind}", {})
            series.setdefault(who, []).extend(values)
    shown = []
    for title, series in charts.items():
        names = sorted(series, key=lambda who: not who.startswith("tempos"))
        for first in range(0, len(names), _MOST_CURVES):
            chosen = {who: series[who] for who in names[first : first + _MOST_CURVES]}
            shown.append(_figure(title, svg.tail(chosen, "µs")))
    return shown


def _bars(report: Report) -> list[str]:
    cases: dict[str, list[tuple[str, Row]]] = {}
    for row in report.rows:
        case, _, who = row.name.partition(": ")
        if not who or row.value is None or row.unit not in _CHARTED:
            continue
        percentile = ""
        if row.unit == "us":
            who, _, percentile = who.rpartition(", ")
            if percentile not in _PERCENTILES:
                continue
        title = ", ".join(part for part in (report.scenario, case, percentile) if part)
        cases.setdefault(f"{title} ({_way(row)})", []).append((who, row))
    return [_figure(title, _chart(rows)) for title, rows in cases.items() if len(rows) > 1]


def _chart(rows: Sequence[tuple[str, Row]]) -> str:
    higher = Better(rows[0][1].better) is Better.HIGHER
    ordered = sorted(rows, key=lambda pair: pair[1].value or 0.0, reverse=higher)
    values = {who: row.value or 0.0 for who, row in ordered}
    unit = {"us": "µs"}.get(rows[0][1].unit, rows[0][1].unit)
    return svg.bars(values, unit, {who: number(value) for who, value in values.items()})


def _way(row: Row) -> str:
    return "more is better" if Better(row.better) is Better.HIGHER else "less is better"


def _figure(title: str, chart: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>{chart}</figure>"
