"""What one run of a scenario tells while it goes on, and what it keeps.

* Every measured value is kept as it was measured, so that all figures can be computed anew.
* After Ctrl-C what is finished is kept: :meth:`Run.keeping` ends the measuring, the figures are computed
  from what there is, and the report says that it is not complete.
* What was really used (interfaces, modes of the fast path) is told by whoever builds it, through
  :func:`current`: those places know no scenario.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias

#: What stands in a table: a text, or a number that is shown with the digits that mean something.
Cell: TypeAlias = str | float | None

_current: ContextVar[Run | None] = ContextVar("current run", default=None)


class Display(Protocol):
    """Shows a person how far a run is."""

    def show(self, text: str, done: int, total: int, left: float | None) -> None:
        """``done`` of ``total`` variants; ``left`` seconds, None while nothing is known of them."""


class Place(Protocol):
    """Where the nodes of a run are, if not in namespaces of this machine."""

    @property
    def shapes(self) -> tuple[str, ...]:
        """The topologies that can be had there, the usual one first. Only one stands at a time."""

    def build(self, shape: str) -> AbstractContextManager[Any]:
        """A :class:`~tempos_bench.nodes.topology.Topology` of that shape."""


class Silence:
    """A display that shows nothing."""

    def show(self, text: str, done: int, total: int, left: float | None) -> None: ...


class _Part:
    """A display that says of which part it speaks."""

    def __init__(self, name: str, display: Display) -> None:
        self._name, self._display = name, display

    def show(self, text: str, done: int, total: int, left: float | None) -> None:
        self._display.show(f"{self._name}, {text}", done, total, left)


class Run:
    """One run of a scenario. Call it with a text to tell what is being done now."""

    def __init__(
        self,
        display: Display | None = None,
        clock: Callable[[], float] = time.monotonic,
        place: Place | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.place = place
        #: Let so many seconds pass while programs do what they are to do.
        self.pause = sleep
        self._display = display or Silence()
        self._clock = clock
        self._done = 0
        self._total = 0
        self._spent = 0.0
        self._planned = False
        self._found: dict[str, Any] = {}
        self._about: dict[str, str] = {}
        #: Whether Ctrl-C ended the measuring early.
        self.interrupted = False
        #: The raw values by variant, in the order in which they were measured.
        self.rounds: dict[str, list[Any]] = {}
        #: Distributions, each a JSON object; see :meth:`add_samples`.
        self.samples: list[dict[str, Any]] = []
        #: Lines that belong beside the figures, in the order in which they were told.
        self.notes: list[str] = []
        #: Figures that are read beside each other, each a JSON object; see :meth:`add_table`.
        self.tables: list[dict[str, Any]] = []
        #: What the run really stood on, each a JSON object, each once.
        self.topologies: list[dict[str, Any]] = []
        self.paths: list[dict[str, Any]] = []

    def __call__(self, text: str) -> None:
        self._display.show(text, self._done, self._total, self._left())

    def plan(self, variants: int) -> None:
        """How many variants will be measured in all, for scenarios that interleave more than once."""
        self._planned, self._total = True, variants

    def expect(self, variants: int) -> None:
        """So many variants more are to be measured, unless all were announced by :meth:`plan`."""
        self._total += 0 if self._planned else variants

    @contextmanager
    def variant(self, text: str) -> Iterator[None]:
        """Around the measuring of one variant."""
        self(text)
        began = self._clock()
        yield
        self._spent += self._clock() - began
        self._done += 1
        self._total = max(self._total, self._done)

    def keep(self, variant: str, value: object) -> None:
        """Keep what a variant gave: a number, a dataclass, or what JSON knows."""
        self.rounds.setdefault(variant, []).append(as_json(value))

    def add_samples(self, variant: str, samples: Mapping[str, Any]) -> None:
        """Keep a distribution: a JSON object that says what it holds and how it is packed."""
        self.samples.append({"variant": variant, **samples})

    def add_table(
        self, title: str, headers: Sequence[str], rows: Sequence[Sequence[Cell]], left: int
    ) -> None:
        """Keep a table: what describes, where the figures judge. The first ``left`` columns are texts."""
        self.tables.append({"title": title, "headers": headers, "rows": as_json(rows), "left": left})

    def note(self, text: str, about: str = "") -> None:
        """A line for the report: what is comparable and what is not, what was left out and why.

        There is one line ``about`` a thing, if that is given: the last.
        """
        earlier = self._about.get(about) if about else None
        if earlier in self.notes:
            self.notes.remove(earlier)
        if text not in self.notes:
            self.notes.append(text)
        self._about[about] = text

    def saw_topology(self, topology: Mapping[str, Any]) -> None:
        if topology not in self.topologies:
            self.topologies.append(dict(topology))

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """What ``find`` gives, found out once in a run: for what does not change while it goes on."""
        if name not in self._found:
            self._found[name] = find()
        return self._found[name]

    def saw_path(self, path: Mapping[str, Any]) -> None:
        if path not in self.paths:
            self.paths.append(dict(path))

    @contextmanager
    def keeping(self, enough: Callable[[], object]) -> Iterator[None]:
        """Around measuring: Ctrl-C ends it, and goes no further if there is ``enough`` for the figures."""
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted = True
            if not enough():
                raise
            self("interrupted: keeping what is finished")

    def repetitions(self, number: int) -> Iterator[int]:
        """0 to ``number`` - 1, no further once the run is interrupted."""
        for each in range(number):
            if self.interrupted:
                return
            yield each

    def part(self, name: str) -> Run:
        """A run of its own inside this one, on the same display; its interruption is the caller's to tell."""
        return Run(_Part(name, self._display), self._clock, self.place, self.pause)

    def _left(self) -> float | None:
        if not self._done or not self._total:
            return None
        return self._spent / self._done * (self._total - self._done)


@contextmanager
def running(run: Run) -> Iterator[Run]:
    """Make ``run`` the current one."""
    token = _current.set(run)
    try:
        yield run
    finally:
        _current.reset(token)


def current() -> Run:
    """The run that goes on; outside of any, one that nobody will read."""
    return _current.get() or Run()


def as_json(value: object) -> Any:
    """A dataclass as an object, and all else as it is; nan, which JSON does not know, as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_json(each) for each in value]
    return None if isinstance(value, float) and value != value else value
