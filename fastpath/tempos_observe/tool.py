"""What a tool is: which programs run at which hooks, what of their maps is shown, and how.

Values only, nothing here touches the kernel. A tool is a module of :mod:`tempos_observe.tools` that holds one
:class:`Tool`; the frame (:mod:`tempos_observe.frame`) does the rest: options, load, attach, read, print,
detach, and the account of what was lost.

Rows are tuples in the order of the columns. None in a row is "not known": `-` for people, null for programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tempos_observe.wishes import Wishes

if TYPE_CHECKING:
    from tempos_observe.frame.session import Session

Value = int | float | str | None
Row = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Hook:
    """A program of the tool's object, by the name of its function; its section says where it is attached.

    Each such section begins with "?", so that only what the frame asks for is loaded.

    ``what``: what it hooks, in words for the header. ``without``: what cannot be seen where this kernel
    lacks it; None: the tool cannot do without. ``instead_of``: needed only where that other program could
    not be had. ``only_with``: the name of the option without which it is left alone, and nothing said.
    ``needs``: raises :class:`tempos.Unavailable` where the machine has not what it stands on.
    ``at``: of a uprobe or a perf event, which the section does not say: see
    :mod:`tempos_observe.frame.places`.
    """

    program: str
    what: str
    without: str | None = None
    instead_of: str = ""
    only_with: str = ""
    at: At | None = None
    needs: Callable[[], None] | None = None


class At(Protocol):
    """Where a program is attached that its section cannot tell."""

    def attach(self, program: Any, wishes: Wishes) -> Sequence[Any]:
        """The links; raises :class:`tempos.Unavailable` with what is missing."""


@dataclass(frozen=True, slots=True)
class Column:
    """``title``: as people see it, the unit in brackets. ``key``: the same for programs, ``lat_ms``.

    ``width``: at least so wide. ``form``: how a number is written (``"d"``, ``".3f"``), right-aligned;
    empty: text, left-aligned. The last column of text is as long as it is. ``brief``: what people see of a
    value that programs get whole. ``spare``: above 0, it is left out where a terminal is too narrow for all,
    that with the highest first.
    """

    title: str
    key: str
    width: int
    form: str = ""
    brief: Callable[[Value], Value] | None = None
    spare: int = 0


@dataclass(frozen=True, slots=True)
class Option:
    """An option that only this tool has: ``--name``, with ``kind`` a value that is read by it.

    Without ``kind`` it is a switch. ``many``: may be given again and again. The tool reads it from
    ``wishes.own["name"]``, dashes as they are.
    """

    name: str
    help: str
    kind: Callable[[str], Any] | None = None
    default: Any = None
    metavar: str = ""
    many: bool = False


@dataclass(frozen=True, slots=True)
class Events:
    """A line for each record that a program puts into a ring buffer, as it comes.

    ``ring``: the map; ``record``: the C struct of its records, all of one kind; it needs ``SHOWN(record)``
    in the program. ``row``: of a record (a named tuple with the struct's members) and the session; None: no
    line. ``rows``, in place of it where there are very many: of what many records have in each member, by its
    name, and the session. ``remaining``: further rows at each interval and at the end, of what is still under
    way.
    """

    ring: str
    record: str
    columns: Sequence[Column]
    row: Callable[[Any, Session], Row | None] | None = None
    rows: Callable[[Mapping[str, Iterable[Any]], Session], Iterable[Row]] | None = None
    remaining: Callable[[Session], Iterable[Row]] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table at each interval and at the end. ``rows`` are made then, of maps: ``session.rows("map")``.

    ``order``: the key of the column it is sorted by, largest first; empty: as the rows come. ``--top`` keeps
    so many of them. ``title``: the line above, for people; ``name``: the same for programs.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Callable[[Session], Iterable[Row]]
    order: str = ""
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters as bpftrace prints them, `@name[a, b]: 12`, the largest last. ``rows``: (a, b), 12."""

    name: str
    keys: Sequence[str]
    rows: Callable[[Session], Iterable[tuple[tuple[Value, ...], int]]]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Histograms with buckets of powers of two, as bpftrace prints them: `@usecs:` and a bar each.

    ``rows``: what it is of (an empty tuple, if there is only one), and how many in [0], [1], [2, 4), [4,
    8), ...
    """

    name: str
    keys: Sequence[str]
    rows: Callable[[Session], Iterable[tuple[tuple[Value, ...], Sequence[int]]]]


View = Events | Table | Counts | Histogram


class Still(Protocol):
    """Shows tables without Python; see :class:`tempos_bpf.shown.Shown`."""

    def loop(self, stop: int, out: int, due_ns: int, interval_ns: int, end_ns: int | None) -> tuple[int, str]:
        """Until something is not as it was, or it is to end: when they are due, and what is to be written."""
        ...


class Example(NamedTuple):
    """A command line without `tempos observe`, and what it is for."""

    command: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One question about processes and the network, and what answers it.

    ``programs``: the object, fastpath/bpf/observe/PROGRAMS.bpf.c. ``views``: what is shown, by what was
    asked for. ``blind``: what it cannot see on any kernel. ``rodata``: further variables of the programs,
    set before they are loaded. ``start``: called once all is attached, gives what rows may ask for as
    ``session.state``. ``by_process``: whether --pid, --comm and --broker mean anything. ``interval``:
    seconds, where none is asked for. ``settle``: called before the programs are taken off at the end:
    waits, shortly, for what must still come. ``still``: called behind each look, with the encoding of who
    reads: what shows all tables without Python as long as only numbers in them change; None: not now.
    ``sizes``: how many entries maps have, by what was asked for. ``check``: raises :class:`tempos.LocalError`
    where the tool's own options do not go together.
    """

    name: str
    question: str
    programs: str
    hooks: Sequence[Hook]
    views: Callable[[Wishes], Sequence[View]]
    blind: Sequence[str]
    options: Sequence[Option] = ()
    examples: Sequence[Example] = ()
    rodata: Callable[[Wishes], Mapping[str, bytes]] | None = None
    start: Callable[[Session], Any] | None = None
    settle: Callable[[Session], None] | None = None
    still: Callable[[Session, str], Still | None] | None = None
    by_process: bool = True
    interval: float | None = None
    sizes: Callable[[Wishes], Mapping[str, int]] | None = None
    check: Callable[[Wishes], None] | None = None
