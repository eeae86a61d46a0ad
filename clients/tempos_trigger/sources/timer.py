"""Endpoints of kind ``timer``: an event at times that a cron line names, or every so many seconds.

    every = 0.5             by a clock that is never set: steps of the wall clock change nothing
    cron = "*/5 * * * *"    by the wall clock in ``zone``; with six fields the first one is seconds
    missed = "skip"         what was missed (a machine that slept, a clock that was set forward) is counted as
                            ``missed``; "once": one event stands for all of it

The event's body is the text of ``body``, where ``{due}`` stands for when it was due (RFC 3339). A cron line
is read as Debian's cron reads it (cronsim 2.8). Where clocks change for summer, what would fall into the
hour that is not there comes right after it, and what falls into the doubled hour comes once; a line whose
minute or hour begins with ``*``, or whose seconds are not one number, goes by the clock as it is. Day and
weekday: one of them is enough, but if either begins with ``*``, as ``*/2`` does, both have to fit. A clock
that is set back by less than an hour repeats nothing; by more, the line counts from the new time.
"""

from __future__ import annotations

import asyncio
import time
import zoneinfo
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

from cronsim import CronSim, CronSimError

from tempos_daemon import kinds
from tempos_daemon.schema import Faults, Key, Keys, Kind, NotAllowed, Table
from tempos_trigger.kind import Sink
from tempos_trigger.model import EndpointSpec

MISSED = "missed"
#: Seconds that a tick may be late before it counts as missed, and that a clock may be set back unnoticed.
GRACE, BACK = 1.0, 3600.0
#: Seconds between two looks at the clock: so late is a step forward noticed at the most.
LOOK = 1.0
#: Ticks that are counted one by one; beyond, a clock that was set by years is not followed tick by tick.
MOST = 10_000
MAX_BODY = 32_768


def _zone(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise NotAllowed
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise NotAllowed("which this machine does not know") from error
    return value


def _body(value: object) -> str:
    if not isinstance(value, str) or len(value.encode("utf-8", "replace")) > MAX_BODY:
        raise NotAllowed
    try:
        value.encode()
    except UnicodeEncodeError:
        raise NotAllowed("which has half of a surrogate pair") from None
    return value


def _cron(value: object) -> str:
    if not isinstance(value, str):
        raise NotAllowed
    try:
        next(CronSim(value, datetime(2024, 1, 1)))
    except CronSimError as error:
        raise NotAllowed(f"{error}") from None
    except (StopIteration, ValueError):
        raise NotAllowed("which no day ever is") from None
    return value


KEYS: Keys = {
    "every": Key(kinds.seconds(0.001, 86_400 * 366), None),
    "cron": Key(Kind("a cron line of five fields, or six with seconds in front", _cron), None),
    "zone": Key(Kind('the name of a time zone, such as "Europe/Rome"', _zone), "UTC"),
    "missed": Key(kinds.choice("skip", "once"), "skip"),
    "body": Key(Kind(f"text of at most {MAX_BODY} bytes", _body), "{due}"),
}


@dataclass(slots=True)
class Ticks:
    """When the next event is due; reads no clock. ``after``: the first tick after a time, None if none is."""

    after: Callable[[float], float | None]
    once: bool
    last: float
    due: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.due = self.after(self.last)

    def look(self, now: float) -> tuple[list[float], int]:
        """The ticks to be told now, and how many were missed."""
        if now < self.last - BACK:
            # Another time of day altogether.
            self.last = now
            self.due = self.after(now)
        ticks: list[float] = []
        while self.due is not None and self.due <= now:
            ticks.append(self.due)
            self.last = self.due
            self.due = self.after(self.due)
            if len(ticks) > MOST:
                self.last, self.due = now, self.after(now)
        late = [tick for tick in ticks if now - tick > GRACE]
        told = ticks[len(late) :]
        if self.once and late and not told:
            return late[-1:], len(late) - 1
        return told, len(late)


def every(seconds: float, start: float) -> Ticks:
    """Every so many seconds from ``start`` on, without drift."""

    def after(now: float) -> float:
        turns = int((now - start) / seconds) + 1
        due = start + turns * seconds
        # Never the same again, whatever floats make of it.
        return due if due > now else start + (turns + 1) * seconds

    return Ticks(after, once=False, last=start)


def cron(line: str, zone: tzinfo, start: float) -> Ticks:
    """As a cron line says, in Unix time."""
    seconds, *minutes = line.split()
    # Six fields are to cronsim a line that runs often, and has no part in what summer time does to others.
    behind = 0
    if len(minutes) == 5 and seconds.isdecimal():
        line, behind = " ".join(minutes), int(seconds)

    def after(now: float) -> float | None:
        try:
            return next(CronSim(line, datetime.fromtimestamp(now - behind, zone))).timestamp() + behind
        except (StopIteration, OverflowError, ValueError, OSError):
            return None

    return Ticks(after, once=False, last=start)


class Timer:
    """The kind."""

    keys = KEYS

    def check(self, table: Table, faults: Faults) -> None:
        both = [key for key in ("every", "cron") if table.get(key) is not None]
        if len(both) != 1:
            what = "are both there" if both else "are both missing"
            faults.add(table.path, f"every and cron {what}; allowed: one of them")

    def claims(self, spec: EndpointSpec) -> Sequence[str]:
        return ()

    def make(self, spec: EndpointSpec, sink: Sink) -> _TimerSource:
        return _TimerSource(spec, sink)


class _TimerSource:
    def __init__(self, spec: EndpointSpec, sink: Sink) -> None:
        self._sink = sink
        self._options = spec.options
        self._task: asyncio.Task[None] | None = None
        self._ticks: Ticks | None = None

    async def open(self) -> None:
        return

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="timer")

    def takes(self, spec: EndpointSpec) -> bool:
        # Another body changes no tick; another time is another timer.
        return all(spec.options[key] == self._options[key] for key in ("every", "cron", "zone"))

    def take(self, spec: EndpointSpec) -> None:
        self._options = spec.options
        if self._ticks is not None:
            self._ticks.once = spec.options["missed"] == "once"

    def status(self) -> dict[str, Any]:
        due = None if self._ticks is None else self._ticks.due
        told: dict[str, Any] = {"state": "closed" if self._task is None else "up"}
        if due is not None:
            told["next"] = _text(due + self._ahead())
        return told

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _clock(self) -> float:
        return time.monotonic() if self._options["every"] is not None else time.time()

    def _ahead(self) -> float:
        """What the time of day is ahead of that clock: a cron line's moments are times of day themselves."""
        return time.time() - time.monotonic() if self._options["every"] is not None else 0.0

    async def _run(self) -> None:
        options, now = self._options, self._clock()
        if options["every"] is not None:
            ticks = every(options["every"], now)
        else:
            ticks = cron(options["cron"], zoneinfo.ZoneInfo(options["zone"]), now)
        ticks.once = options["missed"] == "once"
        self._ticks = ticks
        while True:
            now, ahead = self._clock(), self._ahead()
            told, missed = ticks.look(now)
            if missed:
                self._sink.refuse(MISSED, missed)
            for due in told:
                body = self._options["body"].replace("{due}", _text(due + ahead))
                self._sink.put(body.encode())
            wait = LOOK if ticks.due is None else min(LOOK, max(0.0, ticks.due - self._clock()))
            await asyncio.sleep(wait)


def _text(at: float) -> str:
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=round(at, 3))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
