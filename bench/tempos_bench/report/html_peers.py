"""The part of the report that shows tempos beside other brokers: bars, best first, and latency curves."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from tempos_bench.report import beside, charts
from tempos_bench.report.beside import Bars
from tempos_bench.report.figures import Report, number


def section(reports: Mapping[str, Report]) -> str:
    """Every chart of every peers scenario; empty where there is none."""
    return "".join(
        "".join((*map(_bars, beside.bars(report)), *curves(report)))
        for name, report in reports.items()
        if name.startswith(beside.BESIDE)
    )


def curves(report: Report) -> list[str]:
    """Latency by percentile."""
    return [_figure(title, charts.tail(series)) for title, series in beside.curves(report)]


def _bars(chart: Bars) -> str:
    values = {who: row.value or 0.0 for who, row in chart.rows}
    return _figure(
        chart.title, charts.bars(values, chart.unit, {who: number(value) for who, value in values.items()})
    )


def _figure(title: str, chart: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>{chart}</figure>"
