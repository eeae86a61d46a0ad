"""A run of a tool from load to detach: reads as records come, shows, and ends whole.

Signals only say that it is time; so a line that is being printed is printed, and the last look at what is
counted always comes, after the programs are off. The third Ctrl-C does not wait for that any more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from tempos_bpf.layouts import Layout
from tempos_bpf.rings import RingBuffer
from tempos_observe.frame import processes
from tempos_observe.frame.loading import Loaded, load
from tempos_observe.frame.printing import Keeping, Lines, ending, event_lines, header, look
from tempos_observe.frame.session import Session
from tempos_observe.tool import Events, Row, Still, Table, Tool, View
from tempos_observe.wishes import Wishes

#: Seconds between two looks into a ring buffer that nobody was woken for.
_LOOK = 0.1
_OK, _LOST = 0, 1
_PATIENCE = 3


def run(tool: Tool, wishes: Wishes, out: TextIO | None = None) -> int:
    """Run a tool until its time is over or it is told to stop; gives the exit code: 1 if something was lost.

    Raises :class:`tempos.Unavailable` where it cannot run here, :class:`tempos.LocalError` where what was
    asked for is not there.
    """
    processes.check(wishes)
    out = out or sys.stdout
    wishes = dataclasses.replace(wishes, width=_width(out))
    with Stop() as stop:
        several = processes.several(wishes)
        watch = (lambda loaded: processes.fill(loaded, wishes)) if several else None
        loaded = load(tool, wishes, watch)
        try:
            return _Run(tool, wishes, loaded, out).until(stop)
        finally:
            loaded.close()


def _width(out: TextIO) -> int | None:
    """Characters of a line of a terminal; None: it is none."""
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(out.fileno()).columns or None
    return None


class Stop:
    """Tells that it is time: a signal that ends, caught while this is entered."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.told = 0

    def __enter__(self) -> Stop:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {each: signal.signal(each, self._tell) for each in self._SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for each, before in self._before.items():
            signal.signal(each, before)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    @property
    def fd(self) -> int:
        return self._read

    def _tell(self, number: int, frame: Any) -> None:
        self.told += 1
        if self.told >= _PATIENCE:
            os._exit(128 + number)


class _Run:
    def __init__(self, tool: Tool, wishes: Wishes, loaded: Loaded, out: TextIO) -> None:
        self._tool, self._wishes, self._loaded, self._out = tool, wishes, loaded, out
        self._session = Session(loaded.object, wishes, loaded.has)
        self._views = tuple(tool.views(wishes))
        self._out_fd: int | None = None
        with contextlib.suppress(OSError, ValueError):
            self._out_fd = out.fileno()
        self._events = [
            (
                view,
                RingBuffer(loaded.object.map(view.ring), self._session.layout(view.record)),
                event_lines(view, wishes),
            )
            for view in self._views
            if isinstance(view, Events)
        ]
        self._keeping = {
            view.name: Keeping(view, wishes) for view in self._views if isinstance(view, Table) and view.keeps
        }

    def until(self, stop: Stop) -> int:
        try:
            return self._until(stop)
        finally:
            for _, ring, _ in self._events:
                ring.close()
            self._session.close()

    def _until(self, stop: Stop) -> int:
        tool, wishes, session = self._tool, self._wishes, self._session
        if tool.start is not None:
            session.state = tool.start(session)
        self._print(header(tool, self._loaded.hooked, self._loaded.left_out, tool.blind, wishes))
        if not wishes.json:
            # Views of the same columns are one to the reader.
            self._print(
                [*dict.fromkeys(Lines(view.columns, wishes.width).head for view, _, _ in self._events)]
            )
        with contextlib.closing(select.epoll()) as poll:
            poll.register(stop.fd, select.EPOLLIN)
            with contextlib.suppress(OSError, ValueError):
                poll.register(self._out.fileno(), select.EPOLLERR)  # a pipe whose reader is gone
            for _, ring, _ in self._events:
                poll.register(ring.fd, select.EPOLLIN)
            self._loop(poll, stop)
        if tool.settle is not None:
            tool.settle(session)
        self._loaded.detach()
        self._read()
        self._look([])
        lost = self._loaded.lost()
        self._print(ending((time.monotonic_ns() - session.started_ns) / 1e9, lost, wishes))
        return _LOST if any(lost.values()) else _OK

    def _loop(self, poll: select.epoll, stop: Stop) -> None:
        begin = time.monotonic()
        end = begin + self._wishes.duration if self._wishes.duration else None
        interval = self._wishes.interval or self._tool.interval
        due = begin + interval if interval else None
        while not stop.told:
            now = time.monotonic()
            if end is not None and now >= end:
                return
            if due is not None and interval and now >= due:
                self._look([] if self._wishes.json else [time.strftime("%H:%M:%S")])
                due += (int((now - due) / interval) + 1) * interval
                still = self._still()
                if still is not None:
                    due = self._show(still, stop, due, interval, end)
                    continue
            waits = [moment - now for moment in (end, due) if moment is not None]
            if self._events:
                waits.append(_LOOK)
            for fd, event in poll.poll(max(min(waits), 0) if waits else None):
                if fd != stop.fd and event & (select.EPOLLERR | select.EPOLLHUP):
                    raise BrokenPipeError
            self._read()

    def _still(self) -> Still | None:
        """What goes on without Python, if that can be now."""
        if self._tool.still is None or self._wishes.json or self._out_fd is None:
            return None
        return self._tool.still(self._session, self._out.encoding or "utf-8")

    def _show(self, still: Still, stop: Stop, due: float, interval: float, end: float | None) -> float:
        """As long as nothing but numbers changes; when the next look is due."""
        assert self._out_fd is not None, "asked before"
        ends = None if end is None else int(end * 1e9)
        due_ns, rest = still.loop(stop.fd, self._out_fd, int(due * 1e9), int(interval * 1e9), ends)
        if rest:
            self._print([rest.removesuffix("\n")])
        return due_ns / 1e9

    def _read(self) -> None:
        """Show all records that are there."""
        for view, ring, lines in self._events:
            for raw in ring.read():
                self._print(lines(self._rows(view, ring.layout, raw)))

    def _rows(self, view: Events, layout: Layout, raw: bytes) -> Iterable[Row]:
        if view.rows is not None:
            return view.rows(layout.read_columns(raw), self._session)
        assert view.row is not None, view.ring
        rows = (view.row(record, self._session) for record in layout.read_all(raw))
        return [row for row in rows if row is not None]

    def _look(self, lines: list[str]) -> None:
        """Show what is counted, behind these lines; all of it at once."""
        self._session.look()
        for view in self._views:
            lines += self._seen(view)
        self._print(lines)

    def _seen(self, view: View) -> Iterator[str]:
        if not isinstance(view, Events):
            keeping = self._keeping.get(view.name) if isinstance(view, Table) else None
            rows = view.rows(self._session)
            yield from keeping.look(rows) if keeping else look(view, rows, self._wishes)  # type: ignore[arg-type]
        elif view.remaining is not None:
            yield from event_lines(view, self._wishes)(view.remaining(self._session))

    def _print(self, lines: list[str]) -> None:
        if lines:
            self._out.write("\n".join(lines) + "\n")
            self._out.flush()
