"""What the report draws, once for page and pictures: rounds, bars, series, latency by percentile.

Every chart names its quantities and units. Colours are Okabe and Ito's, which people with any colour vision
can tell apart, and every line has a dash of its own. Latency is on a logarithmic axis; in a distribution the
other axis stretches the tail: 50, 90, 99, 99.9 percent lie one decade of rarity apart. For the page a chart
becomes SVG that takes colours and letters from where it stands: on light, on dark, on paper.

Texts come out of result files and may be anything: nothing in them is taken for markup or mathematics. Needs
matplotlib, which comes with tempos[bench].
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree as ET

from tempos import Unavailable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito (2008): black, vermilion, blue, green, orange, sky blue, purple.
COLOURS = ("#000000", "#d55e00", "#0072b2", "#009e73", "#e69f00", "#56b4e9", "#cc79a7")
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1, 1)), (0, (9, 3)), (0, (3, 1, 1, 1)))
_INK, _SOFT, _EDGE, _GREY, _CARD = "#1b1f24", "#5b6570", "#cccccc", "#aaaaaa", "#fffffe"
#: Colour by the name that the page's style sheet has for it.
_NAMED = {
    **{colour: f"c{number}" for number, colour in enumerate(COLOURS)},
    _INK: "ink", _SOFT: "soft", _EDGE: "edge", _GREY: "grey", _CARD: "card",
}  # fmt: skip
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": _INK,
    "text.parse_math": False,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.facecolor": _CARD,
    "svg.fonttype": "none",
    "svg.hashsalt": "tempos",
}
#: Inches: of a chart on the page, of a row in it, and of what stands above and below.
WIDTH, _ROW, _MARGIN = 10.5, 0.3, 0.75
#: What share of the samples lies beyond a percentile that is marked.
_TAIL = {0.5: "50", 0.1: "90", 0.01: "99", 0.001: "99.9", 0.0001: "99.99", 0.00001: "99.999"}
#: A curve is drawn with at most so many points; all of the tail are among them.
_POINTS = 2000
#: From this ratio of the largest to the smallest value on, an axis goes by powers of ten.
_WIDE = 30
_MANY_POWERS = 300
_LONGEST = 60
#: How the ids of a chart begin.
_ID = "chart-"
#: What XML has no way to write.
_UNPRINTABLE = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Everything is drawn and written inside this; raises :class:`Unavailable` without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise Unavailable("matplotlib is not installed: pip install 'tempos[bench]'") from error
    with mpl.rc_context(_STYLE):
        yield


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[list[Axes]]]:
    """A figure of so many panels, each of that size in inches."""
    # The object-oriented way, which needs no display and keeps nothing between calls.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    return figure, [list(row) for row in grid]


def one(height: float) -> tuple[Figure, Axes]:
    """A chart for the page."""
    figure, grid = panels(1, 1, WIDTH, height)
    return figure, grid[0][0]


# For the page


@styled()
def rounds(rows: Mapping[str, Sequence[float]], unit: str) -> str:
    """Every round of every figure as a dot, the median as a bar; figures below each other, one axis."""
    figure, axes = one(_MARGIN + _ROW * len(rows))
    values = [value for each in rows.values() for value in each]
    for number, each in enumerate(rows.values()):
        # A little up or down, so that equal rounds do not hide each other.
        places = [number + (i * 5 % 9 - 4) * 0.035 for i in range(len(each))]
        axes.plot(each, places, "o", color=COLOURS[2], markersize=4, alpha=0.75, markeredgewidth=0)
        middle = statistics.median(each)
        axes.plot([middle, middle], [number - 0.35, number + 0.35], color=_INK, linewidth=2)
    _rows(axes, list(rows))
    _level_axis(axes, values, unit, zero=False)
    return inline(figure, f"Rounds of {', '.join(rows)} in {unit}")


@styled()
def bars(rows: Mapping[str, float], unit: str, texts: Mapping[str, str]) -> str:
    """A bar for each figure, its value (``texts``) at the end."""
    figure, axes = one(_MARGIN + _ROW * len(rows))
    draw_bars(axes, rows, unit, texts)
    return inline(figure, f"{', '.join(rows)} in {unit}")


@styled()
def tail(series: Mapping[str, Sequence[float]], quantity: str = "one-way latency") -> str:
    """Latency by percentile, microseconds."""
    figure, axes = one(5.0)
    counted = {f"{name} ({len(values):,})": values for name, values in series.items()}
    draw_tails(axes, counted, {name: number for number, name in enumerate(counted)}, quantity)
    return inline(figure, f"{quantity} by percentile of {', '.join(series)}")


@styled()
def sequence(series: Mapping[str, Sequence[float]], unit: str, along: str, floor: float | None = None) -> str:
    """Values one after the other: how steady something is."""
    figure, axes = one(4.0)
    draw_sequence(axes, series, unit, along, floor)
    return inline(figure, f"{', '.join(series)} in {unit}")


# On any axes


def draw_bars(axes: Axes, rows: Mapping[str, float], unit: str, texts: Mapping[str, str]) -> None:
    """Level bars, the first one on top; tempos in a colour of its own."""
    colours = [COLOURS[2] if name.startswith("tempos") else _GREY for name in rows]
    values = list(rows.values())
    drawn = axes.barh(range(len(values)), values, color=colours, height=0.65)
    axes.bar_label(drawn, [printable(texts[name]) for name in rows], padding=3, fontsize=8)
    _rows(axes, list(rows))
    _level_axis(axes, values, unit, zero=True)
    axes.margins(x=0.12)


def draw_tails(
    axes: Axes,
    series: Mapping[str, Sequence[float]],
    styles: Mapping[str, int],
    quantity: str = "one-way latency",
) -> None:
    """A curve for each series of microseconds, the rarer the further up; ``styles`` tell colour and dash."""
    from matplotlib.ticker import LogLocator

    fewest = 1.0
    for name, values in series.items():
        ordered = sorted(values)
        if not ordered:
            continue
        places = _thinned(len(ordered))
        beyond = [1 - place / len(ordered) for place in places]
        axes.plot(
            [max(ordered[place], 0.1) for place in places], beyond, label=name, drawstyle="steps-post",
            linewidth=2.0 if styles[name] == 0 else 1.5, **style(styles[name]),
        )  # fmt: skip
        fewest = min(fewest, 1 / len(ordered))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(1, fewest / 1.5)
    marks = {share: text for share, text in _TAIL.items() if share >= fewest / 1.5}
    axes.set_yticks(list(marks), list(marks.values()))
    axes.minorticks_off()
    low, high = axes.get_xlim()
    # 1, 2 and 5 of each power of ten, unless there are many powers.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < low * _MANY_POWERS else (1,)))
    axes.set_ylabel("percent of events at most as late")
    axes.xaxis.set_major_formatter(duration)
    axes.set_xlabel(quantity)
    finish(axes)


def draw_sequence(
    axes: Axes, series: Mapping[str, Sequence[float]], unit: str, along: str, floor: float | None = None
) -> None:
    """Points joined by a line, numbered from 1; a value that is missing is a gap."""
    for number, (name, values) in enumerate(series.items()):
        axes.plot(
            range(1, len(values) + 1), values, label=name, marker="o", markersize=2.5, linewidth=1.4,
            **style(number),
        )  # fmt: skip
    if floor is not None:
        axes.set_ylim(bottom=floor)
    axes.set_xlabel(printable(along))
    axes.set_ylabel(printable(unit))
    axes.yaxis.set_major_formatter(_short)
    axes.locator_params(axis="x", integer=True)
    finish(axes)


def style(number: int) -> dict[str, Any]:
    """Colour and dash of a line; another dash again when the colours begin anew."""
    again, colour = divmod(number, len(COLOURS))
    return {"color": COLOURS[colour], "linestyle": DASHES[(colour + again) % len(DASHES)]}


def duration(microseconds: float, _: object = None) -> str:
    """A tick of a time axis, with its unit."""
    for unit, size in (("s", 1e6), ("ms", 1e3), ("µs", 1.0)):
        if microseconds >= size:
            return f"{microseconds / size:g} {unit}"
    return f"{microseconds:g} µs"


def finish(axes: Axes) -> None:
    """Grid, frame, and an explanation of the lines."""
    tidy(axes, "both")
    lines = list(axes.get_lines())
    # Without a latency (clocks too far apart) a panel has nothing to explain.
    if lines:
        # Names that begin with an underscore would be left out: so they are put in afterwards.
        legend = axes.legend(
            lines, ["-"] * len(lines), fontsize=7.5, framealpha=0.9, edgecolor="none", loc="best"
        )
        for text, line in zip(legend.get_texts(), lines, strict=True):
            text.set_text(printable(str(line.get_label())))


def tidy(axes: Axes, grid: Literal["x", "both"]) -> None:
    """Grid and frame."""
    axes.grid(visible=True, which="major", axis=grid, color=_EDGE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)


def printable(text: str) -> str:
    """A text as a chart shows it."""
    text = _UNPRINTABLE.sub("\ufffd", text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def inline(figure: Figure, title: str) -> str:
    """A figure as SVG to stand in the page."""
    written = io.BytesIO()
    with warnings.catch_warnings():
        # Whoever looks at it has the letters that our font may lack.
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return _standing(ET.fromstring(written.getvalue()), title)  # noqa: S314 - we wrote it


def _standing(root: ET.Element, title: str) -> str:
    """The SVG without what belongs to a file, its colours and letters the page's."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        found = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        element.attrib.clear()
        for name, value in found.items():
            if name == "id" and element.tag == "g":
                continue
            if name == "style":
                # A colour is always followed by the next property, or by the end.
                value = re.sub(r"#[0-9a-f]{6}\b", _variable, value)
                value = re.sub(r"'DejaVu Sans'[^;]*", "system-ui, sans-serif", value)
            elif name in ("id", "href", "clip-path"):
                value = re.sub(r"^(url\()?(#)?", rf"\g<1>\g<2>{_ID}", value)
            element.set(name, value)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", printable(title))
    return ET.tostring(root, encoding="unicode")


def numbered(page: str) -> str:
    """A page in which every chart has ids of its own, also one that stands there twice."""
    numbers = itertools.count(1)

    def own(chart: re.Match[str]) -> str:
        number = next(numbers)
        return re.sub(rf'( id="|="#|\(#){_ID}', rf"\g<1>{_ID}{number}-", chart[0])

    return re.sub(r"<svg .*?</svg>", own, page, flags=re.DOTALL)


def _variable(colour: re.Match[str]) -> str:
    name = _NAMED.get(colour[0])
    return f"var(--{name})" if name else colour[0]


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Names down the side, the first on top."""
    axes.set_yticks(range(len(names)), [printable(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)


def _level_axis(axes: Axes, values: Sequence[float], unit: str, *, zero: bool) -> None:
    """By powers of ten where figures of very different size would be dots at one edge."""
    low, high = min(values), max(values)
    wide = low > 0 and high / low > _WIDE
    if wide:
        axes.set_xscale("log")
        axes.set_xlim(low / (2 if zero else 1.12), high * (2 if zero else 1.12))
    elif zero and high > 0:
        axes.set_xlim(0, high * 1.12)
    axes.set_xlabel(printable(f"{unit}, by powers of ten" if wide else unit))
    axes.xaxis.set_major_formatter(_short)
    tidy(axes, "x")


def _short(value: float, _: object = None) -> str:
    """A tick's number: 1.5 M, 20 k, 0.25."""
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if suffix == ' k' else limit):g}{suffix}"
    return f"{value:.4g}"


def _thinned(count: int) -> list[int]:
    """Places of an ordered list: all of the last ones, then ever fewer towards the first."""
    places = {count - 1 - min(round(count ** (step / _POINTS)) - 1, count - 1) for step in range(_POINTS + 1)}
    return sorted(places | {0})
