"""Pictures of the scenarios that have a distribution or a curve to show, as PNG beside their JSON.

Drawn from the result alone, so that old results can be drawn anew, out of what :mod:`.charts` draws.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempos_bench.measure import samples
from tempos_bench.measure.qos import CARRIES
from tempos_bench.report import beside, charts
from tempos_bench.report.figures import Report
from tempos_bench.report.figures import number as shown
from tempos_bench.report.source import PICTURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE, _DPI = (5.0, 3.9), 110
#: Of a title, in an inch.
_CHARACTERS = 12

#: The samples, microseconds, of one (variant, load, class), all rounds together.
Curves = Mapping[tuple[str, str, str], Sequence[float]]


def draw(report: Report, folder: Path) -> list[Path]:
    """Draw what there is to draw of a result into ``folder``, as ``SCENARIO-NAME.png``; where it went.

    Raises :class:`Unavailable` without matplotlib.
    """
    if report.scenario not in _PICTURES or not report.rows:
        return []
    drawn = []
    with charts.styled():
        for name, make in _PICTURES[report.scenario].items():
            figure = make(report)
            if figure is not None:
                path = folder / f"{report.scenario}-{name}.png"
                figure.savefig(path, dpi=_DPI)
                drawn.append(path)
    return drawn


def curves(report: Report) -> dict[tuple[str, str, str], list[float]]:
    """All samples of a result, by variant, load and class, in microseconds; what has none is left out."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for record in report.samples:
        # None at all: the nodes' clocks were too far apart.
        if not record["count"]:
            continue
        key = (str(record["variant"]), str(record["load"]), str(record["class"]))
        found.setdefault(key, []).extend(time_ns / 1000 for time_ns in samples.unpack(record))
    return found


def _loads(report: Report) -> Figure | None:
    """SQ above, BQ below, a column for each variant, a line for each load."""
    found = curves(report)
    variants = list(dict.fromkeys(variant for variant, _, _ in found))
    if not variants:
        return None
    figure, grid = _panels(2, len(variants))
    # A load has the same line in every panel; a class alone has the boldest, and comes first.
    loads = list(dict.fromkeys(load for _, load, _ in found))
    names = sorted((load for load in loads if not load.endswith(" alone")), key=lambda load: load == CARRIES)
    loads = [load for load in loads if load.endswith(" alone")] + names
    for column, variant in enumerate(variants):
        for row, quality in enumerate(("SQ", "BQ")):
            chosen = {
                load: found[variant, load, quality] for load in loads if (variant, load, quality) in found
            }
            styles = {load: names.index(load) + 1 if load in names else 0 for load in chosen}
            charts.draw_tails(grid[row][column], chosen, styles)
            grid[row][column].set_title(f"{quality}: {variant}", fontsize=10)
    _share_latency(grid[0])
    _share_latency(grid[1])
    return _titled(figure, report)


def _alone(report: Report) -> Figure | None:
    return _by_path(report, ("SQ alone", "BQ alone"))


def _side_by_side(report: Report) -> Figure | None:
    return _by_path(report, ("SQ alone", "1 SQ + 1 BQ", "1 SQ + 3 BQ"))


def _by_path(report: Report, loads: Sequence[str]) -> Figure | None:
    """A column for each path, a line for each load and class."""
    found = curves(report)
    variants = list(dict.fromkeys(variant for variant, _, _ in found))
    if not variants:
        return None
    figure, grid = _panels(1, len(variants))
    for axes, variant in zip(grid[0], variants, strict=True):
        chosen: dict[str, list[float]] = {}
        for (of, load, quality), values in found.items():
            if of == variant and load in loads:
                # The best-effort workflows of one load are alike: one line for all of them.
                title = load if load.endswith("alone") else f"{load}: {quality.partition(' ')[0]}"
                chosen.setdefault(title, []).extend(values)
        charts.draw_tails(axes, chosen, {title: number for number, title in enumerate(chosen)})
        axes.set_title(variant, fontsize=10)
    _share_latency(grid[0])
    return _titled(figure, report)


def _rate(report: Report) -> Figure | None:
    """Latency above, loss below, over the rate; a column for each path."""
    table = next((one for one in report.tables if "asked/s" in one["headers"]), None)
    if table is None or not table["rows"]:
        return None
    rows = [dict(zip(table["headers"], row, strict=True)) for row in table["rows"]]
    if all(row["p99 us"] is None for row in rows):
        return None
    paths = list(dict.fromkeys(str(row["load"]).partition(", ")[0] for row in rows))
    figure, grid = _panels(2, len(paths))
    for column, path in enumerate(paths):
        above, below = grid[0][column], grid[1][column]
        series: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows:
            of, _, load = str(row["load"]).partition(", ")
            if of == path:
                series.setdefault((load, row["class"]), []).append(row)
        for (load, quality), steps in series.items():
            style: dict[str, Any] = {
                "color": charts.COLOURS[2 if quality == "SQ" else 1],
                "linestyle": "-" if load == "both" else charts.DASHES[2],
                "marker": "o" if quality == "SQ" else "s",
                "markersize": 3.5,
                "linewidth": 1.4,
            }
            title = f"{quality}, {'both flow' if load == 'both' else 'alone'}"
            steps.sort(key=lambda step: float(step["offered/s"]))
            rates = [step["offered/s"] for step in steps]
            above.plot(rates, [step["p99 us"] for step in steps], label=f"{title}: p99", **style)
            if load == "both":
                faint = {**style, "linewidth": 0.8, "alpha": 0.55, "markersize": 2}
                above.plot(rates, [step["p50 us"] for step in steps], label=f"{title}: p50", **faint)
            below.plot(rates, [step["lost %"] for step in steps], label=title, **style)
        above.set_title(path, fontsize=10)
        above.set_yscale("log")
        above.yaxis.set_major_formatter(charts.duration)
        above.set_ylabel("one-way latency")
        below.set_yscale("symlog", linthresh=0.1)
        below.set_ylim(-0.02, 130)
        below.set_yticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
        below.set_ylabel("lost, %")
        for axes in (above, below):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:,.0f}")
            axes.set_xlabel("events/s of each class, as offered")
            charts.finish(axes)
    _share_latency(grid[0], "y")
    return _titled(figure, report)


def _titled(figure: Figure, report: Report) -> Figure:
    inches = figure.get_size_inches()[0]
    title = textwrap.fill(f"{report.scenario}: {report.description}", round(inches * _CHARACTERS))
    figure.suptitle(title, fontsize=10)
    return figure


def _panels(rows: int, columns: int, wide: float = 1.0) -> tuple[Figure, list[list[Axes]]]:
    """``wide``: times the usual width of a panel."""
    return charts.panels(rows, columns, _SIZE[0] * wide, _SIZE[1])


def _pairs(count: int, wide: float) -> tuple[Figure, list[Axes]]:
    """So many panels, two beside each other."""
    figure, grid = _panels(-(-count // 2), min(2, count), wide)
    panels = [axes for row in grid for axes in row]
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _share_latency(panels: Sequence[Axes], which: str = "x") -> None:
    """The same limits for panels that are read beside each other."""
    low = min((panel.get_xlim() if which == "x" else panel.get_ylim())[0] for panel in panels)
    high = max((panel.get_xlim() if which == "x" else panel.get_ylim())[1] for panel in panels)
    for panel in panels:
        panel.set(**{f"{which}lim": (low, high)})


def _round_trips(report: Report) -> Figure | None:
    """A line for each variant."""
    series: dict[str, list[float]] = {}
    for record, values in samples.readable(report.samples):
        series.setdefault(str(record.get("variant", "")), []).extend(values)
    if not series:
        return None
    figure, grid = _panels(1, 1, wide=1.4)
    charts.draw_tails(grid[0][0], series, {name: number for number, name in enumerate(series)})
    grid[0][0].set_xlabel("round trip")
    return _titled(figure, report)


def _repetitions(report: Report) -> Figure | None:
    """The rounds one after the other, as in the source's own figure."""
    (picture,) = (one for one in PICTURES if one.scenario == report.scenario)
    rows = [row for row in report.rows if row.name in picture.rows and row.rounds]
    if not rows:
        return None
    figure, grid = _panels(1, 1, wide=1.4)
    series = {row.name: [math.nan if value is None else value for value in row.rounds] for row in rows}
    charts.draw_sequence(grid[0][0], series, rows[0].unit, picture.along, picture.floor)
    return _titled(figure, report)


def _functions(report: Report) -> Figure | None:
    """A panel for each way to run a function: SQ alone, and both classes at once."""
    found: dict[str, dict[str, list[float]]] = {}
    for record, values in samples.readable(report.samples):
        title = f"{record.get('class', '')} {record.get('load', '')}"
        found.setdefault(str(record.get("variant", "")), {}).setdefault(title, []).extend(values)
    if not found:
        return None
    figure, grid = _panels(len(found), 1, wide=1.4)
    for (axes,), (way, series) in zip(grid, found.items(), strict=True):
        charts.draw_tails(axes, series, {title: number for number, title in enumerate(series)})
        axes.set_title(way, fontsize=10)
        axes.set_xlabel("from the call to its end")
    _share_latency([row[0] for row in grid])
    return _titled(figure, report)


def _bars(report: Report) -> Figure | None:
    """A panel for each case, best first; tempos in a colour of its own."""
    cases = beside.bars(report)
    if not cases:
        return None
    figure, panels = _pairs(len(cases), wide=1.5)
    for axes, case in zip(panels, cases, strict=True):
        values = {who: row.value or 0.0 for who, row in case.rows}
        charts.draw_bars(axes, values, case.unit, {who: shown(value) for who, value in values.items()})
        axes.set_title(case.title, fontsize=9)
    return _titled(figure, report)


def _beside(report: Report) -> Figure | None:
    """A panel for each case: raw generators, and client libraries."""
    cases = beside.curves(report)
    if not cases:
        return None
    figure, panels = _pairs(len(cases), wide=1.3)
    for axes, (title, series) in zip(panels, cases, strict=True):
        charts.draw_tails(axes, series, {name: at for at, name in enumerate(series)})
        axes.set_title(title, fontsize=9)
    return _titled(figure, report)


_PICTURES: Mapping[str, Mapping[str, Callable[[Report], Figure | None]]] = {
    "qos-slow": {"latency": _loads},
    "qos-fast": {"latency": _loads},
    "qos-workflows": {"alone": _alone, "beside": _side_by_side},
    "qos-rate": {"latency": _rate},
    "workflows": {"rate": _rate},
    "invoke": {"beside": _functions},
    "source-loss": {"received": _repetitions},
    "source-time": {"times": _repetitions},
    "source-rtt": {"latency": _round_trips},
    "source-ping": {"latency": _round_trips},
    "director": {"bars": _bars},
    "peers-rate": {"bars": _bars},
    "peers-latency": {"bars": _bars, "latency": _beside},
}
