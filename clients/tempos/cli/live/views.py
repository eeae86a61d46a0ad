"""A state as lines of a screen, at least 80 columns wide if it is to be a pleasure. No input or output."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any

from tempos.cli.live.state import State, Topic
from tempos.cli.words import counted, group_name, member_name
from tempos.errors import one_line


class Style(Enum):
    """How a piece of text looks."""

    PLAIN = auto()
    STRONG = auto()
    SOFT = auto()
    GOOD = auto()
    WARNING = auto()
    FAULT = auto()
    HEAD = auto()
    CHOSEN = auto()


#: Pieces of a line, one behind the other.
Line = Sequence[tuple[str, Style]]


class View(Enum):
    """What is below the first lines."""

    TOPICS = "topics"
    FINDINGS = "findings"
    CHANGES = "changes"


class Sort(Enum):
    """Which topic comes first."""

    RATE = "rate"
    LAG = "lag"
    LOSS = "loss"
    LATENCY = "latency"
    NAME = "name"


_KEY: dict[Sort, Callable[[Topic], float]] = {
    Sort.RATE: lambda topic: -topic.rate,
    Sort.LAG: lambda topic: -topic.waiting,
    Sort.LOSS: lambda topic: -topic.lost,
    Sort.LATENCY: lambda topic: -1.0 if topic.late is None else -topic.late,
    Sort.NAME: lambda topic: 0.0,
}
KEYS = (
    "r l o t n  sort by rate, lag, loss, time (p99), name      / find, Esc all",
    "arrows, PgUp PgDn, Home End  move      Enter  groups and members of a topic",
    "f findings   c changes   Esc topics    Space  hold still   ? keys   q end",
)
_FOOT = ("q end", "? keys", "/ find", "Enter members", "f findings", "c changes")
#: Columns from which on every row says why its path is that; else the chosen one's reason stands below.
_WIDE = 110


@dataclass(slots=True)
class Wish:
    """What whoever looks wants to see. ``chosen``: place in the list; ``opened``: a topic's number."""

    view: View = View.TOPICS
    sort: Sort = Sort.RATE
    find: str = ""
    finding: bool = False
    chosen: int = 0
    top: int = 0
    opened: int | None = None
    keys: bool = False
    #: The document of the topic that is opened, with its members, once it is there.
    members: Mapping[str, Any] | None = None
    still: bool = False


def screen(state: State, wish: Wish, width: int, height: int) -> list[Line]:
    """So many lines of so many columns; ``wish``: its places are put right where the list is shorter."""
    head = [*_verdict(state), _figures(state), ()]
    body = list(_body(state, wish, width))
    foot: list[Line] = [((_foot(state, wish, width), Style.SOFT),)]
    table = wish.view is View.TOPICS and wish.opened is None and not wish.keys
    wish.chosen = max(0, min(wish.chosen, len(body) - 1))
    if table:
        wide = width >= _WIDE
        head.append(((f"{_TITLES}  why" if wide else _TITLES, Style.HEAD),))
        if not wide:
            foot.insert(0, _why(state, wish))
    room = max(height - len(head) - len(foot), 1)
    if table:
        wish.top = max(min(wish.top, wish.chosen), wish.chosen - room + 1)
    else:
        wish.top = wish.chosen = min(wish.chosen, max(len(body) - room, 0))
    shown = body[wish.top : wish.top + room]
    if table and body:
        at = wish.chosen - wish.top
        shown[at] = (("".join(text for text, _ in shown[at]).ljust(width), Style.CHOSEN),)
    shown += [()] * (room - len(shown))
    return [_cut(line, width) for line in (*head, *shown, *foot)[:height]]


def listed(state: State, wish: Wish) -> list[Topic]:
    """The topics in their order, those that are looked for."""
    wanted = wish.find.lower()
    key = _KEY[wish.sort]
    found = [each for each in state.topics.values() if not wanted or wanted in _words(each)]
    return sorted(found, key=lambda each: (key(each), each.name))


def _why(state: State, wish: Wish) -> Line:
    """Why the chosen topic takes its path."""
    found = listed(state, wish)[wish.chosen : wish.chosen + 1]
    return tuple((f"{each.name}: {one_line(each.told['reason'])}", Style.SOFT) for each in found)


def _words(topic: Topic) -> str:
    told = topic.told
    groups = " ".join(each.told["name"] for each in topic.groups)
    return f"{topic.name} {told['reason']} {told['path']} {told['class']} {groups}".lower()


def _cut(line: Line, width: int) -> Line:
    cut, left = [], width
    for text, style in line:
        if left <= 0:
            break
        printable = "".join(each if each.isprintable() else "?" for each in text[:left])
        cut.append((printable, style))
        left -= len(printable)
    return tuple(cut)


# --- the first lines ------------------------------------------------------------------------------


def _verdict(state: State) -> Iterator[Line]:
    name = one_line(state.head["broker"]["name"]) if state.head else ""
    if state.trouble:
        since = f"as it was at {_clock(state.at)}" if state.at else "nothing is known of it"
        yield ((f"{name or 'broker'}: not live, {since}; trying again", Style.FAULT),)
        yield ((one_line(state.trouble), Style.PLAIN),)
        yield ()
        return
    wrong = state.wrong
    now = [each for each in wrong if each["now"]]
    if now:
        first, others = now[0], len(now) - 1
        style = Style.FAULT if first["severity"] == "fault" else Style.WARNING
        more = f" (and {others} more: f)" if others else ""
        what = one_line(f"{first['code']} {first['name']}{more}: {first['subject'] or name}")
        yield ((f"{name}: {what}", style),)
        yield ((f"since {_when(first, first['since'])}: {one_line(first['cause'])}", Style.PLAIN),)
        yield ((f"what to do: {one_line(first['fix'])}" if first["fix"] else "", Style.PLAIN),)
        return
    if wrong:
        last = wrong[0]
        yield ((f"{name}: nothing goes wrong now", Style.GOOD),)
        what = f"{last['code']} {last['name']}: {last['subject'] or name}, {last['cause']}"
        yield ((f"last {_when(last, last['changed'])}: {one_line(what)}", Style.SOFT),)
    else:
        yield ((f"{name}: nothing is wrong", Style.GOOD),)
        yield ()
    yield ()


def _figures(state: State) -> Line:
    topics = state.topics.values()
    if not state.head:
        return ()

    def worst(quality: str) -> str:
        times = [each.late for each in topics if each.told["class"] == quality and each.late is not None]
        return f"  {quality} p99 {_time(max(times))}" if times else ""

    fast = sum(each.told["path"] == "fast" for each in topics)
    mode = state.head["paths"]["fast"]["mode"]
    text = (
        f"{_many(sum(each.rate for each in topics))}/s in  {_many(sum(each.out for each in topics))}/s out  "
        f"{sum(each.lost for each in topics):,} lost  {fast:,} of {len(topics):,} fast ({mode})"
        f"{worst('SQ')}{worst('BQ')}"
    )
    return ((text, Style.STRONG),)


def _foot(state: State, wish: Wish, width: int) -> str:
    if wish.finding:
        return f"find: {wish.find}_   Enter done, Esc all"
    parts = [
        *(["still"] if wish.still else []),
        *([f"only {wish.find!r}"] if wish.find else []),
        _clock(state.at),
    ]
    foot = "  ".join(parts)
    for each in _FOOT:
        if len(foot) + 2 + len(each) <= width:
            foot += f"  {each}"
    return foot


# --- what is below --------------------------------------------------------------------------------

#: How wide the kind of a change is.
_KIND = 13
_TITLES = f"{'topic':<24} {'cls':3} {'path':4} {'in/s':>9} {'out/s':>9} {'mem':>5} {'wait':>6} {'lost':>7}"


def _body(state: State, wish: Wish, width: int) -> Iterator[Line]:
    if wish.keys:
        yield from (((each, Style.PLAIN),) for each in KEYS)
    elif wish.view is View.FINDINGS:
        yield from _findings(state, width)
    elif wish.view is View.CHANGES:
        yield from _changes(state, width)
    elif wish.opened in state.topics:
        yield from _topic(state.topics[wish.opened], wish.members)
    else:
        wish.opened = None
        yield from (_row(each, width) for each in listed(state, wish))


def _row(topic: Topic, width: int) -> Line:
    told = topic.told
    path = told["path"] or "-"
    style = {"fast": Style.GOOD, "-": Style.FAULT}.get(path, Style.PLAIN)
    return (
        (f"{_short(topic.name, 24):<24} {told['class']:3} ", Style.PLAIN),
        (f"{path:4}", style),
        (
            f" {_many(topic.rate):>9} {_many(topic.out):>9} {topic.members:>5,} {topic.waiting:>6,} ",
            Style.PLAIN,
        ),
        (f"{topic.lost:>7,}", Style.FAULT if topic.lost else Style.PLAIN),
        (f"  {one_line(told['reason'])}" if width >= _WIDE else "", Style.SOFT),
    )


def _findings(state: State, width: int) -> Iterator[Line]:
    found = state.head.get("wrong", ())
    if not found:
        yield (("No findings.", Style.SOFT),)
    for each in found:
        style = {"fault": Style.FAULT, "warning": Style.WARNING}.get(each["severity"], Style.PLAIN)
        when = f"since {_when(each, each['since'])}"
        if not each["now"]:
            when += f", last {_when(each, each['changed'])}"
        yield (
            (f"{each['code']} {each['name']}", style),
            (f"  {one_line(each['subject'])}  {when}", Style.SOFT),
        )
        yield from _folded(each["cause"], Style.PLAIN, width, 2)
        yield from _folded(each["means"], Style.SOFT, width, 2)
        if each["fix"]:
            yield from _folded(f"what to do: {each['fix']}", Style.STRONG, width, 2)


def _changes(state: State, width: int) -> Iterator[Line]:
    if not state.changes:
        yield (("No changes.", Style.SOFT),)
    times = [_clock(datetime.fromisoformat(each["at"]).timestamp()) for each in state.changes]
    column = max(map(len, times), default=0) + 2
    for each, told in zip(reversed(state.changes), reversed(times), strict=True):
        style = Style.WARNING if each["severity"] in ("warning", "fault", "error") else Style.PLAIN
        text = list(_folded(each["text"], Style.PLAIN, width, column + _KIND))
        for number, line in enumerate(text):
            at = "" if number else told
            kind = "" if number else each["kind"]
            words = "".join(piece for piece, _ in line).lstrip()
            yield ((f"{at:<{column}}", Style.SOFT), (f"{kind:<{_KIND}}", style), (words, Style.PLAIN))


def _topic(topic: Topic, members: Mapping[str, Any] | None) -> Iterator[Line]:
    """From publishers by the broker to groups and members."""
    told = topic.told
    before = told["lost_before"]
    yield (
        (f"{topic.name}  {told['class']}  path {told['path'] or '-'}", Style.STRONG),
        (f"  {told['reason']}", Style.SOFT),
    )
    way = "refused here, or lost on the way" if told["refused"].get("over_rate") else "lost on the way here"
    lost = f", at least {before['at_least']:,} never ticketed: {way}" if before["at_least"] else ""
    yield ((f"  {counted(before['publishers'], 'publisher')}, {_many(topic.rate)}/s{lost}", Style.PLAIN),)
    refused = ", ".join(f"{count:,} {why}" for why, count in told["refused"].items())
    yield (
        (f"  {told['received']:,} received: {told['fast']:,} fast, {told['slow']:,} slow", Style.PLAIN),
        (f"; refused: {refused}" if refused else "", Style.WARNING),
    )
    known = {} if members is None else {each["name"]: each["members"] for each in members["groups"]}
    for group in topic.groups:
        each = group.told
        yield ()
        yield (
            (f"  {group_name(each['name'])}", Style.STRONG),
            (f"  {counted(each['members'], 'member')}, {_many(group.rate)}/s: {each['tickets']:,} ticketed, "
             f"{each['delivered']:,} delivered, ", Style.PLAIN),
            (f"{each['lost']:,} lost, {each['dropped']:,} dropped",
             Style.FAULT if each["lost"] or each["dropped"] else Style.PLAIN),
        )  # fmt: skip
        rows = known.get(each["name"], ())
        if rows:
            yield (
                (
                    f"    {'member':<28} {'ticketed':>12} {'delivered':>12} {'dropped':>9} {'wait':>6}",
                    Style.HEAD,
                ),
            )
        for member in rows:
            where = member_name(member) + (" (static)" if member["static"] else "")
            figures = (f"{_count(member['ticketed']):>12} {_count(member['delivered']):>12} "
                       f"{_count(member['dropped']):>9} {_count(member['waiting']):>6}")  # fmt: skip
            yield (
                (f"    {where:<28} {figures}", Style.PLAIN),
                (f"  {member['left_out'] or ''}", Style.WARNING),
            )
    if not topic.groups:
        yield (("  No group: nobody subscribes.", Style.SOFT),)


def _folded(text: str, style: Style, width: int, indent: int) -> Iterator[Line]:
    """On as many lines as it takes."""
    for each in textwrap.wrap(one_line(text), max(width - indent, 20)):
        yield ((" " * indent + each, style),)


# --- words ----------------------------------------------------------------------------------------


def _short(name: str, most: int) -> str:
    name = one_line(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _many(rate: float) -> str:
    return f"{rate:.1f}" if 0 < rate < 10 else f"{rate:,.0f}"


def _time(ns: int) -> str:
    return (
        f"{ns:,} ns" if ns < 10_000 else f"{ns / 1e3:,.0f} µs" if ns < 10_000_000 else f"{ns / 1e6:,.0f} ms"
    )


def _clock(unix: float) -> str:
    """The time of day; with the day, where it is another one."""
    if not unix:
        return "--:--:--"
    at, now = time.localtime(unix), time.localtime()
    return time.strftime("%H:%M:%S" if at[:3] == now[:3] else "%d %b %H:%M:%S", at)


def _when(each: Mapping[str, Any], unix: float) -> str:
    """When it happened, for all that is known: what was so at the first look happened before."""
    before = "before " if each["before"] and unix <= each["since"] else ""
    return before + _clock(max(unix, each["since"]))
