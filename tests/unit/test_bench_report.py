"""The page of all results: complete, self-contained, and safe with whatever a result file holds."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tempos_bench.measure import samples
from tempos_bench.measure.stats import summarize
from tempos_bench.report import charts, goals, html, plot, source
from tempos_bench.report.figures import Better, Figure, Report, Row, Target, judge, median
from tempos_bench.runs import scenario

VOID = {"meta", "img"}
HOSTILE = '<script src="//x">&\'"'
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VALUES = st.lists(st.floats(-1e12, 1e12).map(lambda value: round(value, 6)), min_size=1, max_size=20)


class Checked(HTMLParser):
    """Balanced tags, and every attribute that could fetch something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "data", "srcset"}]
        assert tag != "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def made(name: str, **fields: object) -> Report:
    figures = [
        median("ratio", summarize([0.96, 0.97, 0.99, 0.98]), "x", Better.HIGHER),
        median(HOSTILE, summarize([5.0, 4000.0, 7.5]), "us", source=HOSTILE),
        Figure(f"32 B: {HOSTILE}", 5e6, "events/s"),
        Figure("32 B: NATS, raw", 1.0, "events/s"),
    ]
    rows = judge(figures, {"ratio": Target.parse(">= 0.95")})
    machine = {"cpu": HOSTILE, "cores": 2, "sysctls": {"a": HOSTILE}, "commit": "abc"}
    return Report(name, machine, "2026-01-01T00:00:00+00:00", rows, HOSTILE, **fields)  # type: ignore[arg-type]


def test_the_page_holds_everything_and_fetches_nothing(tmp_path: Path) -> None:
    (tmp_path / "redirect-rates.png").write_bytes(PNG)
    record = {"variant": HOSTILE, **samples.pack([1000, 2000, 3000, 900_000])}
    reports = {
        "redirect": made("redirect", notes=(HOSTILE,), complete=False, parameters={"rounds": 3}),
        "peers-rate": made("peers-rate", samples=({**record, "variant": f"1/s: {HOSTILE}"},)),
        "source-time": made("source-time", samples=({"encoding": "other"}, record)),
    }
    text = html.page(reports, tmp_path)
    page = Checked(text)

    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    # Within the page a clip path is found by its id.
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert len(ids := re.findall(r' id="([^"]+)"', text)) == len(set(ids))
    named = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
    assert set(named) - {"goals", "source", "peers", "scenarios", "machine", "again", *reports} <= set(ids)
    words = " ".join(page.words)
    for shown in (
        "met",
        "Interrupted",
        "Every round",
        "Beside other brokers",
        "≥ 0.95",
        HOSTILE,
        "not measured",
    ):
        assert shown in words
    assert sum(link.startswith("data:") for link in page.links) == 1
    assert html.page(reports, tmp_path) == text


def test_every_goal_and_picture_is_told(tmp_path: Path) -> None:
    words = "".join(Checked(html.page({"redirect": made("redirect")}, tmp_path)).words)
    assert all(goal.what in words for goal in goals.GOALS)
    assert words.count("not measured") == len(goals.GOALS) - 1


def test_scenarios_that_are_there_have_the_figures_that_goals_and_pictures_name() -> None:
    for goal in goals.GOALS:
        if goal.scenario in scenario.names():
            targets = scenario.load(goal.scenario).targets
            report = Report(
                goal.scenario, {}, "", tuple(Row(name, 1, "x", str(t), True) for name, t in targets.items())
            )
            assert goals.rows(goal, {goal.scenario: report}), goal
    for picture in source.PICTURES:
        assert picture.rows or picture.image


def test_what_the_page_draws_itself_is_a_picture_too(tmp_path: Path) -> None:
    """Every figure of the source, and the peers; and the page does not show them twice."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    reports = {}
    for name in ("source-loss", "source-time", "source-rtt", "source-ping", "peers-rate", "peers-latency"):
        names = [row for one in source.PICTURES if one.scenario == name for row in one.rows]
        figures = [
            *(median(row, summarize([1.0, 2.0]), "ns") for row in names),
            *(Figure(f"32 B: {who}, raw", 5e6, "events/s") for who in ("tempos", "NATS")),
        ]
        records = [{"variant": f"1/s: {who}, raw", **samples.pack([1000, 9000])} for who in "abcdefgh"]
        reports[name] = Report(name, {}, "2026", judge(figures, {}), name, samples=tuple(records))
    drawn = {path.name for each in reports.values() for path in plot.draw(each, tmp_path)}
    assert drawn == {
        "source-loss-received.png", "source-time-times.png", "source-rtt-latency.png",
        "source-ping-latency.png", "peers-rate-bars.png", "peers-latency-bars.png",
        "peers-latency-latency.png",
    }  # fmt: skip
    pictures = {one.scenario for one in source.PICTURES}
    assert pictures <= {name.rsplit("-", 1)[0] for name in drawn} | {
        "qos-workflows",
        "qos-rate",
        "workflows",
        "invoke",
    }
    assert not any(link.startswith("data:") for link in Checked(html.page(reports, tmp_path)).links)
    assert all(plot.draw(Report(name, {}, "", ()), tmp_path) == [] for name in reports)


def test_functions_of_both_classes_are_drawn_beside_the_source(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    records = [
        {"variant": way, "load": load, "class": quality, **samples.pack([1000, 9000, 70_000])}
        for way in ("DLF, kept", "program")
        for load, quality in (("alone", "SQ"), ("beside", "SQ"), ("beside", "BQ"))
    ]
    report = Report("invoke", {}, "2026", judge([Figure("x", 1.0, "us")], {}), "", samples=tuple(records))
    assert [path.name for path in plot.draw(report, tmp_path)] == ["invoke-beside.png"]
    page = Checked(html.page({"invoke": report}, tmp_path))
    assert "Figure 2.3" in "".join(page.words)
    assert any(link.startswith("data:image/png") for link in page.links)


def sound(chart: str) -> None:
    """A chart for the page: well-formed, in the page's colours, with nothing in it that is no number."""
    Checked(chart)
    root = ET.fromstring(chart)
    assert (root.tag, root.get("role")) == ("svg", "img")
    styles = " ".join(element.get("style", "") for element in root.iter())
    assert "var(--ink)" in styles
    assert "#" not in styles
    places = [value for element in root.iter() for name, value in element.items() if name != "aria-label"]
    assert not re.search(r"\b(nan|inf)\b", " ".join(places))


@settings(max_examples=3)
@given(st.dictionaries(st.text(min_size=1, max_size=80), VALUES, min_size=1, max_size=4))
@example({"_hidden": [1.0], "$\\frac{$": [2.0, 1e9], "$a$": [0.0], "\x00\ud800\n<&>": [-1.0]})
def test_charts_are_sound_whatever_names_and_values(rows: dict[str, list[float]]) -> None:
    shown = {charts.printable(name).strip() for name in rows} - {""}
    for chart in (
        charts.rounds(rows, "us"),
        charts.sequence(rows, "ns", "round"),
        charts.bars(
            {name: abs(values[0]) for name, values in rows.items()}, "$x$", dict.fromkeys(rows, "$1$")
        ),
        charts.tail({name: [abs(value) + 0.1 for value in values] for name, values in rows.items()}),
    ):
        sound(chart)
        words = " ".join("".join(ET.fromstring(chart).itertext()).split())
        assert all(" ".join(name.split()) in words for name in shown), words


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e12])
def test_a_chart_of_one_value_has_an_axis(value: float) -> None:
    for chart in (charts.rounds({"a": [value]}, "us"), charts.bars({"a": value}, "us", {"a": "1"})):
        sound(chart)
        assert "us" in ET.fromstring(chart).itertext()
