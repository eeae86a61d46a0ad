"""Small charts as SVG that takes its colours from the page it stands in: on light, on dark, on paper.

Every chart names its quantities and units. Colours are those of Okabe and Ito, which people with any
colour vision can tell apart; a series also has its own dash or its name beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

#: Width of a chart in its own units; the page scales it.
WIDTH = 760
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 44
_ROW = 24
#: From this ratio of the largest to the smallest value on, an axis goes by powers of ten.
_WIDE = 30
_LABEL = 7.0  # width of a character, about
_COLOURS = 7
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 2")


def strip(rows: Mapping[str, Sequence[float]], unit: str) -> str:
    """Every round of every figure as a dot, the median as a bar; figures below each other, one axis."""
    values = [value for each in rows.values() for value in each]
    left = _label_space(rows)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    # Figures of very different size would be dots at one edge.
    wide = min(values) > 0 and max(values) / min(values) > _WIDE
    chosen = _level_log_axis if wide else _axis
    scale, axis = chosen(min(values), max(values), left, WIDTH - _RIGHT, height - _BOTTOM, unit)
    parts = [axis]
    for number, (name, each) in enumerate(rows.items()):
        y = _TOP + _ROW * (number + 0.5)
        parts.append(_text(left - 8, y + 4, name, "end"))
        parts += [
            f'<circle cx="{scale(value):.1f}" cy="{y + _jitter(i):.1f}" r="2.6" class="dot c0"/>'
            for i, value in enumerate(each)
        ]
        x = scale(_median(each))
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 9:.1f}" y2="{y + 9:.1f}" class="median"/>')
    return _svg(height, parts, f"Rounds of {', '.join(rows)} in {unit}")


def bars(rows: Mapping[str, float], unit: str, texts: Mapping[str, str]) -> str:
    """A bar for each figure, its value (``texts``) at the end; from zero unless values differ very much."""
    left = _label_space(rows)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    room = WIDTH - _RIGHT - 90
    low, high = min(rows.values()), max(rows.values())
    if low > 0 and high / low > _WIDE:
        scale, axis = _level_log_axis(low / 2, high, left, room, height - _BOTTOM, unit)
    else:
        scale, axis = _axis(0, high, left, room, height - _BOTTOM, unit)
    parts = [axis]
    for number, (name, value) in enumerate(rows.items()):
        y = _TOP + _ROW * number
        own = "c2" if name.startswith("tempos") else "c0"
        width = max(scale(value) - left, 0.5)
        parts.append(_text(left - 8, y + 16, name, "end"))
        parts.append(
            f'<rect x="{left}" y="{y + 4}" width="{width:.1f}" height="{_ROW - 8}" class="bar {own}"/>'
        )
        parts.append(_text(left + width + 6, y + 16, texts[name]))
    return _svg(height, parts, f"{', '.join(rows)} in {unit}")


def tail(series: Mapping[str, Sequence[float]], unit: str) -> str:
    """Latency by percentile: both axes by powers of ten, the right one of "1 in so many takes longer"."""
    ordered = {name: sorted(values) for name, values in series.items() if values}
    low = min(values[0] for values in ordered.values())
    high = max(values[-1] for values in ordered.values())
    most = max(len(values) for values in ordered.values())
    height = 330 + 18 * len(ordered)
    bottom = height - _BOTTOM - 18 * len(ordered)
    x, axis_x = _powers_axis(_LEFT, WIDTH - _RIGHT, most, bottom)
    y, axis_y = _log_axis(max(low, 1e-9), high, bottom, unit)
    parts = [axis_x, axis_y]
    for number, (name, values) in enumerate(ordered.items()):
        points = " ".join(f"{x(share):.1f},{y(value):.1f}" for share, value in _steps(values))
        style = f'class="line c{number % _COLOURS}" stroke-dasharray="{_dash(number)}"'
        parts.append(f'<polyline points="{points}" {style}/>')
        key = height - 18 * (len(ordered) - number) + 6
        parts.append(f'<line x1="{_LEFT}" x2="{_LEFT + 34}" y1="{key - 4}" y2="{key - 4}" {style}/>')
        parts.append(_text(_LEFT + 42, key, f"{name} ({len(values):,})"))
    return _svg(height, parts, f"Latency by percentile of {', '.join(ordered)}")


def sequence(series: Mapping[str, Sequence[float]], unit: str, along: str, floor: float | None = None) -> str:
    """Values one after the other, as points joined by a line: how steady something is."""
    values = [value for each in series.values() for value in each]
    most = max(len(each) for each in series.values())
    height = 270 + 18 * len(series)
    bottom = height - _BOTTOM - 18 * len(series)
    low, high = (min(values) if floor is None else floor), max(values)
    y, axis = _upright_axis(low, high, bottom, unit)
    step = (WIDTH - _RIGHT - _LEFT - 20) / max(most - 1, 1)
    parts = [axis, _text(WIDTH - _RIGHT, bottom + 32, along, "end")]
    parts += [
        _text(_LEFT + 10 + step * i, bottom + 16, str(i + 1), "middle")
        for i in range(0, most, max(1, math.ceil(most / 15)))
    ]
    for number, (name, each) in enumerate(series.items()):
        at = [(_LEFT + 10 + step * i, y(value)) for i, value in enumerate(each)]
        style = f'class="line c{number % _COLOURS}" stroke-dasharray="{_dash(number)}"'
        parts.append(f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in at)}" {style}/>')
        parts += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.6" class="dot c{number % _COLOURS}"/>' for a, b in at
        ]
        key = height - 18 * (len(series) - number) + 6
        parts.append(f'<line x1="{_LEFT}" x2="{_LEFT + 34}" y1="{key - 4}" y2="{key - 4}" {style}/>')
        parts.append(_text(_LEFT + 42, key, name))
    return _svg(height, parts, f"{', '.join(series)} in {unit}")


Scale = Callable[[float], float]


def _axis(low: float, high: float, left: float, right: float, y: float, unit: str) -> tuple[Scale, str]:
    """A level axis; the scale, and its ticks with lines upwards."""
    low, high, ticks = _ticks(low, high, 6)

    def scale(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    parts = [f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" class="axis"/>']
    for tick in ticks:
        x = scale(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{y}" class="grid"/>')
        parts.append(_text(x, y + 16, _short(tick), "middle"))
    parts.append(_text(right, y + 34, unit, "end"))
    return scale, "".join(parts)


def _level_log_axis(
    low: float, high: float, left: float, right: float, y: float, unit: str
) -> tuple[Scale, str]:
    """A level axis by powers of ten."""
    first, last = math.log10(low) - 0.05, math.log10(high) + 0.05

    def scale(value: float) -> float:
        return left + (math.log10(value) - first) / (last - first) * (right - left)

    parts = [f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" class="axis"/>']
    for mark in _log_marks(first, last, 8):
        x = scale(mark)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{y}" class="grid"/>')
        parts.append(_text(x, y + 16, _short(mark), "middle"))
    parts.append(_text(right, y + 34, f"{unit}, by powers of ten", "end"))
    return scale, "".join(parts)


def _log_marks(first: float, last: float, most: int) -> list[float]:
    """1, 2 and 5 of each power of ten between two logarithms; only the powers if that is too many."""
    marks = [m * 10.0**e for e in range(math.floor(first), math.ceil(last) + 1) for m in (1, 2, 5)]
    shown = [mark for mark in marks if first <= math.log10(mark) <= last]
    return shown if len(shown) <= most else [mark for mark in shown if math.log10(mark).is_integer()]


def _upright_axis(low: float, high: float, bottom: float, unit: str) -> tuple[Scale, str]:
    low, high, ticks = _ticks(low, high, 5)

    def scale(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - _TOP - 14)

    return scale, "".join(_rung(scale(tick), _short(tick)) for tick in ticks) + _text(4, _TOP, unit)


def _log_axis(low: float, high: float, bottom: float, unit: str) -> tuple[Scale, str]:
    """An upright axis by powers of ten, with lines at 1, 2 and 5 of each."""
    first, last = math.log10(low) - 0.05, math.log10(high) + 0.05

    def scale(value: float) -> float:
        return bottom - (math.log10(max(value, low)) - first) / (last - first) * (bottom - _TOP - 14)

    shown = _log_marks(first, last, 10)
    return scale, "".join(_rung(scale(mark), _short(mark)) for mark in shown) + _text(4, _TOP, unit)


def _powers_axis(left: float, right: float, most: int, y: float) -> tuple[Scale, str]:
    """A level axis of shares: 0, 90 %, 99 %, 99.9 % ... as far as so many samples can tell."""
    powers = max(math.log10(most), 1.0)

    def scale(share: float) -> float:
        return left + min(-math.log10(max(1 - share, 1 / most)), powers) / powers * (right - left)

    parts = [f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" class="axis"/>']
    for share, name in ((0.0, "0"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"),
                        (0.9999, "99.99 %"), (0.99999, "99.999 %"), (0.999999, "99.9999 %")):  # fmt: skip
        if 1 - share >= 0.999 / most:
            x = scale(share)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{y}" class="grid"/>')
            parts.append(_text(x, y + 16, name, "middle"))
    parts.append(_text(right, y + 32, "share that is faster", "end"))
    return scale, "".join(parts)


def _steps(ordered: Sequence[float]) -> list[tuple[float, float]]:
    """(share below, value) at some hundred places, dense towards the tail."""
    count = len(ordered)
    places = sorted({
        min(count - 1, max(0, round(count * (1 - 10 ** -(step / 40))) - 1))
        for step in range(int(40 * math.log10(count)) + 80)
    } | {count - 1})  # fmt: skip
    return [(place / count, ordered[place]) for place in places]


def _ticks(low: float, high: float, about: int) -> tuple[float, float, list[float]]:
    """Round numbers that span ``low`` to ``high``."""
    if high <= low:
        margin = abs(high) * 0.05 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return first * step, last * step, [number * step for number in range(first, last + 1)]


def _rung(y: float, text: str) -> str:
    line = f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
    return line + _text(_LEFT - 6, y + 4, text, "end")


def _short(value: float) -> str:
    """A tick's number: 1.5 M, 20 k, 0.25."""
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if suffix == ' k' else limit):g}{suffix}"
    return f"{value:.4g}"


def _label_space(rows: Mapping[str, object]) -> float:
    return min(max(_LEFT, max(map(len, rows)) * _LABEL + 14), WIDTH * 0.5)


def _dash(number: int) -> str:
    """Another dash for each colour, and another again when the colours begin anew."""
    return _DASHES[(number + number // _COLOURS) % len(_DASHES)]


def _jitter(number: int) -> float:
    """A little up or down, so that equal rounds do not hide each other."""
    return (number * 5 % 9 - 4) * 0.9


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{''.join(parts)}</svg>"
    )
