"""Rows as text for people and as lines of JSON for programs. No input or output: lists of lines come back."""

from __future__ import annotations

import functools
import itertools
import json
import operator
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence

from tempos_observe.tool import Column, Counts, Events, Histogram, Row, Table, Tool, Value, View
from tempos_observe.wishes import Wishes

#: As wide as the longest bar of a histogram.
_BAR = 52
_UNITS = ("", "K", "M", "G", "T", "P")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(", ", ": ")).encode


def shown(value: Value) -> str:
    """As people see it, whatever it holds: nothing of it reaches the terminal as a command."""
    if value is None:
        return "-"
    text = (
        value if isinstance(value, str) else format(value, ".3f") if isinstance(value, float) else str(value)
    )
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class Lines:
    """Rows of one table as lines of text, quickly: as a rule they are all alike.

    ``width``: as many characters has a line there; None: as many as it takes. ``spared``: the columns for
    which there was no room.
    """

    def __init__(self, columns: Sequence[Column], width: int | None = None) -> None:
        kept = _fitting(columns, width)
        self.spared = tuple(each for at, each in enumerate(columns) if at not in kept)
        self._kept: Callable[[Row], Row] | None = operator.itemgetter(*kept) if self.spared else None
        columns = [columns[at] for at in kept]
        self._columns = columns
        self._brief = [(index, each.brief) for index, each in enumerate(columns) if each.brief]
        #: By which columns are not known: how a row is written.
        self._forms: dict[tuple[int, ...], str] = {}
        self._form = self._written(())
        self.head = " ".join(
            f"{each.title:{'>' if self._right(each) else '<'}{each.width}}" for each in columns
        ).rstrip()

    def lines(self, rows: Iterable[Row]) -> list[str]:
        """Of many; those that are all alike without a step of Python for each."""
        found = list(map(self._kept, rows) if self._kept else rows)
        if self._brief or any(map(operator.contains, found, itertools.repeat(None))):
            return list(map(self._line, found))
        lines = list(map(self._form.__mod__, found))
        return lines if "".join(lines).isprintable() else list(map(self._line, found))

    def line(self, row: Row) -> str:
        return self._line(self._kept(row) if self._kept else row)

    def _line(self, row: Row) -> str:
        if self._brief:
            whole = list(row)
            for index, brief in self._brief:
                whole[index] = brief(whole[index])
            row = tuple(whole)
        form = self._form
        if None in row:
            unknown = tuple(index for index, value in enumerate(row) if value is None)
            form = self._forms.get(unknown) or self._written(unknown)
            row = tuple(value for value in row if value is not None)
        line: str = form % row
        if line.isprintable():
            return line
        return form % tuple(shown(value) if isinstance(value, str) else value for value in row)

    def _written(self, unknown: tuple[int, ...]) -> str:
        """The form of a row of which these are not known."""
        words = []
        for index, column in enumerate(self._columns):
            to, last = "" if self._right(column) else "-", index == len(self._columns) - 1
            if index in unknown:
                words.append(f"{'-':{'>' if self._right(column) else '<'}{column.width}}")
            elif column.form:
                words.append(f"%{to}{column.width}{column.form.lstrip('<')}")
            else:
                words.append("%s" if last else f"%{to}{column.width}s")
        self._forms[unknown] = form = " ".join(words).rstrip()
        return form

    @staticmethod
    def _right(column: Column) -> bool:
        return bool(column.form) and not column.form.startswith("<")


def _fitting(columns: Sequence[Column], width: int | None) -> list[int]:
    """The columns that there is room for, by their place."""
    kept = list(range(len(columns)))
    wide = {at: max(each.width, len(each.title)) + 1 for at, each in enumerate(columns)}
    while width and sum(map(wide.__getitem__, kept)) - 1 > width and any(columns[at].spare for at in kept):
        kept.remove(max(kept, key=lambda at: columns[at].spare))
    return kept


def folded(lines: Iterable[str], width: int | None) -> list[str]:
    """Comments, each on as many lines as it takes."""
    if not width:
        return [*lines]
    return [part for line in lines for part in textwrap.wrap(line, max(width, 20), subsequent_indent="#   ")]


def without_room(columns: Iterable[Sequence[Column]], width: int | None) -> list[str]:
    """What people are told of columns that a terminal has no room for."""
    spared = dict.fromkeys(each.title for table in columns for each in Lines(table, width).spared)
    return (
        [f"# no room for: {', '.join(spared)} (a wider terminal, a file and --json have all)"]
        if spared
        else []
    )


def header(
    tool: Tool, hooked: Sequence[str], left_out: Sequence[str], blind: Sequence[str], wishes: Wishes
) -> list[str]:
    """What a run begins with."""
    if wishes.json:
        return [
            _encode(
                {
                    "type": "start",
                    "tool": tool.name,
                    "hooks": [*hooked],
                    "left_out": [*left_out],
                    "cannot_see": [*blind],
                }
            )
        ]
    lines = [
        f"# {tool.name}: {tool.question}",
        *(f"# hooked: {each}" for each in hooked),
        *(f"# not on this kernel: {each}" for each in left_out),
        *(f"# cannot see: {each}" for each in blind),
        *without_room(
            (each.columns for each in tool.views(wishes) if isinstance(each, Events | Table)), wishes.width
        ),
        f"# for {wishes.duration:g} s, or until Ctrl-C" if wishes.duration else "# until Ctrl-C",
    ]
    return folded(lines, wishes.width)


def ending(seconds: float, lost: Mapping[str, int], wishes: Wishes) -> list[str]:
    """What a run ends with; ``lost``: how many of what, those that lost nothing too."""
    if wishes.json:
        return [_encode({"type": "end", "seconds": round(seconds, 3), "lost": dict(lost)})]
    told = ", ".join(f"{count} {what}" for what, count in lost.items() if count)
    return [f"# {seconds:.1f} s; lost: {told or 'nothing'}"]


def event_lines(view: Events, wishes: Wishes) -> Callable[[Iterable[Row]], list[str]]:
    """How rows of events become lines."""
    if not wishes.json:
        return Lines(view.columns, wishes.width).lines
    keys = ["type", *(each.key for each in view.columns)]
    return lambda rows: [_encode(dict(zip(keys, ("event", *row), strict=True))) for row in rows]


def look(view: View, rows: Iterable[tuple[object, ...]], wishes: Wishes) -> list[str]:
    """The lines of a view that is shown as a whole; ``rows`` as its own function gives them."""
    if isinstance(view, Table):
        return _table(view, _ordered(view, rows, wishes.top), wishes)  # type: ignore[arg-type]
    if isinstance(view, Counts):
        return _counts(view, rows, wishes)  # type: ignore[arg-type]
    if isinstance(view, Histogram):
        return _histograms(view, rows, wishes)  # type: ignore[arg-type]
    raise AssertionError("events come by themselves")


def _ordered(view: Table, rows: Iterable[Row], top: int | None) -> list[Row]:
    found = list(rows)
    if view.order:
        at = next(index for index, each in enumerate(view.columns) if each.key == view.order)
        found.sort(key=lambda row: row[at] if isinstance(row[at], int | float) else -1, reverse=True)  # type: ignore[arg-type,return-value]
    return found[:top]


def _table(view: Table, rows: Sequence[Row], wishes: Wishes) -> list[str]:
    return _framed(view, _written(view, rows, wishes), wishes)


def _framed(view: Table, lines: list[str], wishes: Wishes) -> list[str]:
    if wishes.json:
        return lines
    return [view.title, _lines(tuple(view.columns), wishes.width).head, *lines, ""]


def _written(view: Table, rows: Sequence[Row], wishes: Wishes) -> list[str]:
    """A line for each."""
    if wishes.json:
        keys = [each.key for each in view.columns]
        return [
            _encode({"type": "row", "table": view.name, **dict(zip(keys, row, strict=True))}) for row in rows
        ]
    return _lines(tuple(view.columns), wishes.width).lines(rows)


def numbered(
    view: Table, rows: Iterable[Row], numbers: int, wishes: Wishes
) -> tuple[str, list[str], list[int]]:
    """How people see a table and each of its rows before the numbers that come last, and how wide those are.

    The numbers in ``rows`` do not matter; 0 is as wide as its column.
    """
    lines = _lines(tuple(view.columns), wishes.width)
    wide = [each.width for each in view.columns[-numbers:]]
    behind = sum(wide) + numbers
    return f"{view.title}\n{lines.head}\n", [line[:-behind] for line in lines.lines(rows)], wide


class Keeping:
    """A table whose rows mostly stay from look to look: those are written once, and not looked at again."""

    def __init__(self, view: Table, wishes: Wishes) -> None:
        self._view, self._wishes = view, wishes
        self._rows: Iterable[Row] | None = None
        self._shown: list[str] = []
        #: By the identity of the row, which stays its own as long as it is here.
        self._known: dict[int, tuple[Row, str]] = {}

    def look(self, rows: Iterable[Row]) -> list[str]:
        """The lines of the table."""
        if rows is not self._rows:
            found = _ordered(self._view, rows, self._wishes.top)
            known = self._known
            if len(known) > 2 * len(found):
                self._known = known = {at: known[at] for row in found if (at := id(row)) in known}
            new = [row for row in found if id(row) not in known]
            for row, line in zip(new, _written(self._view, new, self._wishes), strict=True):
                known[id(row)] = (row, line)
            self._rows = rows
            self._shown = _framed(self._view, [known[id(row)][1] for row in found], self._wishes)
        return self._shown


@functools.lru_cache(64)
def _lines(columns: tuple[Column, ...], width: int | None) -> Lines:
    """Of a table that is shown again and again."""
    return Lines(columns, width)


def _counts(view: Counts, rows: Iterable[tuple[tuple[Value, ...], int]], wishes: Wishes) -> list[str]:
    found = sorted(rows, key=lambda each: each[1])
    if wishes.top is not None:
        found = found[max(len(found) - wishes.top, 0) :]
    if wishes.json:
        return [
            _encode(
                {"type": "count", "name": view.name, **dict(zip(view.keys, key, strict=True)), "count": count}
            )
            for key, count in found
        ]
    return [f"@{view.name}{_bracket(key)}: {count}" for key, count in found]


def _bracket(key: tuple[Value, ...]) -> str:
    return f"[{', '.join(map(shown, key))}]" if key else ""


def _histograms(
    view: Histogram, rows: Iterable[tuple[tuple[Value, ...], Sequence[int]]], wishes: Wishes
) -> list[str]:
    found = [(key, list(buckets)) for key, buckets in rows if any(buckets)]
    found.sort(key=lambda each: sum(each[1]))
    if wishes.top is not None:
        found = found[max(len(found) - wishes.top, 0) :]
    lines: list[str] = []
    for key, buckets in found:
        if wishes.json:
            filled = [[*bounds(index), count] for index, count in enumerate(buckets) if count]
            lines.append(
                _encode(
                    {
                        "type": "histogram",
                        "name": view.name,
                        **dict(zip(view.keys, key, strict=True)),
                        "buckets": filled,
                    }
                )
            )
        else:
            lines += [f"@{view.name}{_bracket(key)}:", *_bars(buckets), ""]
    return lines


def bounds(index: int) -> tuple[int, int]:
    """What a bucket counts: from, and below which."""
    return (index, index + 1) if index < 2 else (1 << (index - 1), 1 << index)


def _bars(buckets: Sequence[int]) -> list[str]:
    filled = [index for index, count in enumerate(buckets) if count]
    most, lines = max(buckets), []
    for index in range(filled[0], filled[-1] + 1):
        low, high = bounds(index)
        label = f"[{_short(low)}]" if index < 2 else f"[{_short(low)}, {_short(high)})"
        bar = "@" * (buckets[index] * _BAR // most)
        lines.append(f"{label:<16} {buckets[index]:>8} |{bar:<{_BAR}}|")
    return lines


def _short(number: int) -> str:
    power = 0
    while number >= 1024 and power < len(_UNITS) - 1:
        number, power = number // 1024, power + 1
    return f"{number}{_UNITS[power]}"
