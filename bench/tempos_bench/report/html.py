"""One page of all results: self-contained, for light and dark screens and for paper.

Everything on it comes from the result files and the images beside them; nothing is fetched. What a
result does not hold (no samples, no rounds) is left out.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tempos_bench.measure import samples
from tempos_bench.measure.stats import summarize
from tempos_bench.report import beside, charts, goals, html_peers
from tempos_bench.report.figures import CONFIDENCE, Report, Row, cell, number
from tempos_bench.report.html_style import STYLE
from tempos_bench.report.source import PICTURES, PREFIX, Picture

#: More series than this in one chart cannot be told apart.
_MOST_SERIES = 7
#: Scenarios that the page draws itself, from their figures; their PNG files are for use elsewhere.
_DRAWN_HERE = (*beside.BESIDE, PREFIX)
#: Fewer rounds than this make no chart.
_FEWEST_ROUNDS = 3


def page(reports: Mapping[str, Report], folder: Path) -> str:
    """The page; ``folder`` is where images named after their scenario may lie."""
    images = _images(reports, folder if folder.is_dir() else folder.parent)
    first = min(reports.values(), key=lambda report: report.started)
    sections = [
        _section("goals", "Goals", _goals(reports)),
        _section("source", "The source's figures in our numbers", _source(reports, images)),
        _section("peers", "Beside other brokers", html_peers.section(reports)),
        _section("scenarios", "Every scenario", "".join(_scenario(r, images) for r in reports.values())),
        _section("machine", "The machine", _machine(reports)),
        _section("again", "To measure it yourself", _again(reports)),
    ]
    commit = first.machine.get("commit", "")
    facts = [_time(first.started), first.machine.get("cpu"), f"{first.machine.get('cores', '?')} cores",
             f"Linux {first.machine.get('kernel', '?')}", f"commit {commit}" if commit else None]  # fmt: skip
    head = escape(" · ".join(str(fact) for fact in facts if fact))
    links = " ".join(f'<a href="#{s[0]}">{escape(s[1])}</a>' for s in sections if s[2])
    body = charts.numbered("".join(_framed(*section) for section in sections if section[2]))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>tempos bench</title><style>{STYLE}</style></head>\n"
        f"<body><header><h1>tempos bench</h1><p>{head}</p><nav>{links}</nav></header>\n<main>{body}</main>"
        "</body></html>\n"
    )


def _section(name: str, title: str, content: str) -> tuple[str, str, str]:
    return name, title, content


def _framed(name: str, title: str, content: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>\n'


def _goals(reports: Mapping[str, Report]) -> str:
    lines = []
    for goal in goals.GOALS:
        rows = goals.rows(goal, reports)
        what = _cell(goal.what) + _cell(goal.against)
        if not rows:
            lines.append(
                f"<tr>{what}<td colspan=5 class=absent>not measured: {escape(goal.scenario)}</td></tr>"
            )
        for place, row in enumerate(rows):
            span = f" rowspan={len(rows)}"
            shown = "" if place else what.replace("<td>", f"<td{span}>")
            target = _cell(_target(row), "n")
            lines.append(
                f"<tr>{shown}{_cell(row.name)}{_number(row)}{_cell(_unit(row.unit))}{target}{_verdict(row)}</tr>"
            )
    return _table(("what", "against", "figure", "n:value", "unit", "n:target", ""), lines) + (
        "<p class=small>Ratios are medians over rounds in which both sides took turns. The target is the"
        " bound in the scenario's file.</p>"
    )


def _source(reports: Mapping[str, Report], images: Mapping[str, Sequence[Path]]) -> str:
    return "".join(_picture(picture, reports, images) for picture in PICTURES)


def _picture(picture: Picture, reports: Mapping[str, Report], images: Mapping[str, Sequence[Path]]) -> str:
    report = reports.get(picture.scenario)
    if report is None:
        return ""
    rows = [row for row in report.rows if row.name in picture.rows and _values(row)]
    named = [
        path for path in images.get(picture.scenario, ()) if picture.image and picture.image in path.stem
    ]
    shown = [_image(path) for path in named]
    if rows and picture.rows:
        series = {row.name: _values(row) for row in rows}
        shown.append(charts.sequence(series, _unit(rows[0].unit), picture.along, picture.floor))
    elif not shown and report.samples:
        shown.append(_distribution(report))
    if not any(shown):
        return ""
    link = f'<a href="#{escape(picture.scenario)}">{escape(picture.scenario)}</a>'
    return (
        f"<figure><h3>Figure {escape(picture.number)}: {escape(picture.title)}</h3>{''.join(shown)}"
        f"<figcaption>In the source: {escape(picture.theirs)} Ours: {link}.</figcaption></figure>"
    )


def _scenario(report: Report, images: Mapping[str, Sequence[Path]]) -> str:
    incomplete = "" if report.complete else "<p class=missed>Interrupted: this is what was finished.</p>"
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    given = ", ".join(f"{key} {_plain(value)}" for key, value in report.parameters.items())
    pictures = "".join(_image(path) for path in images.get(report.scenario, ()))
    return (
        f'<article id="{escape(report.scenario)}"><h3>{escape(report.scenario)}</h3>'
        f"<p>{escape(report.description)}</p>{incomplete}{_figures(report.rows)}"
        f"{''.join(map(_described, report.tables))}"
        f"{f'<ul class=notes>{notes}</ul>' if notes else ''}{_rounds(report)}{pictures}"
        f"{'' if pictures or report.scenario.startswith(beside.BESIDE) else _distribution(report)}"
        f"<p class=small>{escape(given)}. {escape(_took(report))}</p></article>"
    )


def _described(one: Mapping[str, Any]) -> str:
    """A table of what describes; see :meth:`tempos_bench.runs.run.Run.add_table`."""
    left = one["left"]
    headers = [head if at < left else f"n:{head}" for at, head in enumerate(one["headers"])]
    lines = [
        f"<tr>{''.join(_cell(cell(value), '' if at < left else 'n') for at, value in enumerate(row))}</tr>"
        for row in one["rows"]
    ]
    return f"<h4>{escape(one['title'])}</h4>{_table(headers, lines)}"


def _figures(rows: Sequence[Row]) -> str:
    """The rows of a report; columns that no row fills are left out."""
    columns = {
        "figure": [_cell(row.name) for row in rows],
        "n:value": [_number(row) for row in rows],
        "unit": [_cell(_unit(row.unit)) for row in rows],
        "n:middle half": [_cell(_spread(row), "n") for row in rows],
        f"n:{CONFIDENCE:.0%} interval": [_cell(row.between() if row.target else "", "n") for row in rows],
        "n:target": [_cell(_target(row), "n") for row in rows],
        "": [_verdict(row) for row in rows],
        "n:source": [_cell(row.source or "", "n") for row in rows],
    }
    shown = {head: cells for head, cells in columns.items() if any("></td>" not in cell for cell in cells)}
    return _table(shown, [f"<tr>{''.join(cells)}</tr>" for cells in zip(*shown.values(), strict=True)])


def _unit(unit: str) -> str:
    return {"us": "µs"}.get(unit, unit)


def _target(row: Row) -> str:
    return (row.target or "").replace(">=", "≥").replace("<=", "≤").replace("==", "=")


def _rounds(report: Report) -> str:
    """A chart of all rounds for every unit that several figures, or many rounds, have."""
    drawn = []
    for unit, rows in _by_unit(report.rows).items():
        shown = {row.name: _values(row) for row in rows if len(_values(row)) >= _FEWEST_ROUNDS}
        if shown:
            drawn.append(charts.rounds(shown, _unit(unit)))
    if not drawn:
        return ""
    return f"<details><summary>Every round</summary><figure>{''.join(drawn)}</figure></details>"


def _distribution(report: Report) -> str:
    """Latency by percentile of the samples that a report carries: a chart a load, a curve a variant."""
    loads: dict[str, dict[str, list[float]]] = {}
    for record, values in samples.readable(report.samples):
        name = " ".join(str(record[key]) for key in ("variant", "class") if key in record)
        loads.setdefault(str(record.get("load", "")), {}).setdefault(name, []).extend(values)
    shown = []
    for load, series in loads.items():
        names = list(series)
        for first in range(0, len(names), _MOST_SERIES):
            chosen = {name: series[name] for name in names[first : first + _MOST_SERIES]}
            title = f"<h3>{escape(load)}</h3>" if load else ""
            shown.append(f"<figure>{title}{charts.tail(chosen)}</figure>")
    return "".join(shown)


def _machine(reports: Mapping[str, Report]) -> str:
    """The machine of the first scenario, and of the others what differs from it."""
    (first, *others) = reports.values()
    parts = [_facts(first.machine)]
    differing: dict[str, list[str]] = {}
    for report in others:
        changed = {key: value for key, value in report.machine.items() if value != first.machine.get(key)}
        if changed:
            differing.setdefault(_facts(changed), []).append(report.scenario)
    for facts, names in differing.items():
        parts.append(f"<h3>Otherwise with {escape(', '.join(names))}</h3>{facts}")
    shown = (_topology(topology) for report in reports.values() for topology in report.topologies)
    return "".join((*parts, *dict.fromkeys(shown)))


def _facts(machine: Mapping[str, Any]) -> str:
    flat: list[tuple[str, str]] = []
    for key, value in machine.items():
        if isinstance(value, Mapping):
            told = (f"{name}: {each}" for name, each in value.items() if each != "Not affected")
            flat.append((key, "\n".join(told)))
        else:
            flat.append((key, _plain(value)))
    lines = [
        f"<tr>{_cell(key.replace('_', ' '), 'key')}<td class=lines>{escape(text)}</td></tr>"
        for key, text in flat
    ]
    return _table(("", ""), lines)


def _topology(topology: Mapping[str, Any]) -> str:
    lines = [
        "<tr>" + "".join(_cell(_plain(interface.get(key, ""))) for key in _INTERFACE) + "</tr>"
        for interface in topology.get("interfaces", ())
    ]
    headers = tuple(key.replace("_", " ") for key in _INTERFACE)
    return f"<h3>Nodes, {escape(str(topology.get('shape', '')))}</h3>{_table(headers, lines)}"


_INTERFACE = ("node", "name", "kind", "mtu", "rx_queues", "tx_queues", "rx_ring", "qdisc", "offloads")


def _again(reports: Mapping[str, Report]) -> str:
    names = " ".join(reports)
    return (
        "<pre>tempos bench run " + escape(names) + " --json-dir results\n"
        "tempos bench report results -o report.html\n"
        "tempos bench compare these-results results</pre>"
        "<p>As root, on an idle machine. Each scenario's file in <code>config/bench</code> holds its"
        " parameters; <code>--set NAME=VALUE</code> changes one. Result files keep every round.</p>"
    )


def _table(headers: Iterable[str], lines: Sequence[str]) -> str:
    heads = "".join(
        f"<th class=n>{escape(head[2:])}</th>" if head.startswith("n:") else f"<th>{escape(head)}</th>"
        for head in headers
    )
    return (
        f"<div class=wide><table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(text: str, kind: str = "") -> str:
    return f"<td{f' class={kind}' if kind else ''}>{escape(text)}</td>"


def _number(row: Row) -> str:
    return _cell(number(row.value), "n")


def _verdict(row: Row) -> str:
    word = row.verdict.value
    doubt = f"<div class=small>{escape(row.doubt)}</div>" if row.doubt else ""
    return f"<td class='verdict {word}'>{word}{doubt}</td>"


def _spread(row: Row) -> str:
    values = _values(row)
    if len(values) < _FEWEST_ROUNDS:
        return ""
    summary = summarize(values)
    return f"{number(summary.low)} … {number(summary.high)}"


def _values(row: Row) -> list[float]:
    return [value for value in row.rounds if value is not None]


def _by_unit(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.unit, []).append(row)
    return found


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if value >= 100_000 else str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(each) for each in value)
    return str(value)


def _took(report: Report) -> str:
    load = report.load.get("begin"), report.load.get("end")
    loads = f"; load average {load[0][0]} before, {load[1][0]} after" if load[0] and load[1] else ""
    used = dict.fromkeys(
        f"fast path {path['mode']}" if path["path"] == "fast" else "slow path" for path in report.paths
    )
    return (
        f"{_time(report.started)} to {_time(report.finished)}{loads}{''.join(f'; {each}' for each in used)}"
    )


def _time(text: str) -> str:
    return text.replace("T", " ").replace("+00:00", " UTC")


def _images(reports: Mapping[str, Report], folder: Path) -> dict[str, list[Path]]:
    """The PNG files of a scenario: named for it, or beginning with its name and a dash or a dot."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.png")):
        owners = [
            name
            for name in reports
            if (path.stem == name or path.stem.startswith((f"{name}-", f"{name}.")))
            and not name.startswith(_DRAWN_HERE)
        ]
        if owners:
            found.setdefault(max(owners, key=len), []).append(path)
    return found


def _image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<figure><img alt="{escape(path.stem, quote=True)}" src="data:image/png;base64,{data}"></figure>'
