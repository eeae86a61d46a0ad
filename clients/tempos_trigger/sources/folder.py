"""A folder as a source: lines that are appended to its files, or whole files, each found once.

Plain calls that read files, for a thread; they know no event loop, and time is an argument. Rules:

* A file is its inode, held open: one that is renamed (rotation) is read to its end under whatever name, one
  that is removed as well, and its inode cannot become another file's meanwhile. A file that is shorter than
  what was read of it, or begins otherwise, was cut and written anew: it is read from its start.
* What was found counts as read once it is *settled*, in order. Only that is remembered: what was not settled
  before a crash is found again.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Bytes of a file's beginning by which it is known again, and that are read at a time.
HEAD, CHUNK = 64, 65_536
#: Seconds that a file which left the folder is still looked at: whoever writes to it may not know yet.
LINGER = 5.0
#: Files that are gone, of which it is remembered all the same how far they were read.
MOST_GONE = 1000
TOO_LARGE, UNREADABLE = "too_large", "unreadable"

_Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Found:
    """A signal: the ``name`` of its file, and what :meth:`settle` takes."""

    body: bytes
    name: str
    mark: Any


@dataclass(frozen=True, slots=True)
class Watched:
    """Which files of which folder. ``limit``: bytes of a line or a file; ``from_start``: old ones, too."""

    path: Path
    pattern: str
    limit: int
    from_start: bool

    @property
    def mark(self) -> list[str]:
        """Whose memory is whose."""
        return [str(self.path), self.pattern]


def entries(watched: Watched) -> Iterator[tuple[str, os.stat_result]]:
    """The plain files that match, by name; raises :class:`OSError` where there is no folder."""
    hidden = watched.pattern.startswith(".")
    with os.scandir(watched.path) as listed:
        names = sorted(each.name for each in listed)
    for name in names:
        if not fnmatch.fnmatchcase(name, watched.pattern) or (name.startswith(".") and not hidden):
            continue
        # Gone since it was listed.
        with contextlib.suppress(FileNotFoundError):
            about = (watched.path / name).stat()
            if stat.S_ISREG(about.st_mode):
                yield name, about


@dataclass(slots=True, eq=False)
class _Reading:
    """A file that lines are read from: up to ``at``, of which ``settled`` is done with."""

    name: str
    fd: int
    key: _Key
    at: int
    settled: int
    head: bytes = b""
    #: In the middle of a line that is too long.
    skipping: bool = False
    seen: float = 0.0


class Lines:
    """The lines of the files of a folder. ``memory``: of an earlier one, or None for the first time."""

    def __init__(self, watched: Watched, memory: dict[str, Any] | None) -> None:
        self._watched = watched
        self._readings: dict[_Key, _Reading] = {}
        # Another pattern: what it newly matches is old.
        self._first = memory is None or memory["of"] != watched.mark
        self._memory = {} if memory is None else {(row[0], row[1]): row for row in memory["lines"]}
        self._unreadable: set[_Key] = set()

    def look(self, now: float, room: int) -> tuple[list[Found], Counter[str]]:
        """At most ``room`` lines that were not found before, and what was dropped, by reason."""
        dropped: Counter[str] = Counter()
        for name, about in entries(self._watched):
            key = (about.st_dev, about.st_ino)
            reading = self._readings.get(key)
            if reading is None:
                reading = self._open(name, key, dropped)
                if reading is None:
                    continue
                self._readings[key] = reading
            reading.name, reading.seen = name, now
        self._first = False
        found: list[Found] = []
        for key, reading in list(self._readings.items()):
            if self._was_cut(reading):
                # What was found before the cut settles nothing behind it.
                reading = _Reading(reading.name, reading.fd, key, 0, 0, reading.head, seen=now)
                self._readings[key] = reading
            grew = self._read(reading, found, room, dropped)
            if grew:
                reading.seen = max(reading.seen, now)
            elif now - reading.seen > LINGER and reading.settled == reading.at:
                os.close(reading.fd)
                del self._readings[key]
        return found, dropped

    def settle(self, mark: tuple[_Reading, int]) -> None:
        """A line is done with; in the order in which they were found."""
        reading, end = mark
        reading.settled = end

    def memory(self) -> dict[str, Any]:
        """What to remember."""
        # Of what is not there just now, too: it may be back.
        rows = list(self._memory.values())[-MOST_GONE:]
        rows += [
            [*key, reading.settled, reading.head[: reading.settled].hex()]
            for key, reading in self._readings.items()
        ]
        return {"lines": rows, "of": self._watched.mark}

    def close(self) -> None:
        """Let go of the files."""
        for reading in self._readings.values():
            os.close(reading.fd)
        self._readings.clear()

    def _open(self, name: str, key: _Key, dropped: Counter[str]) -> _Reading | None:
        try:
            fd = os.open(self._watched.path / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            # Told once for each.
            dropped[UNREADABLE] += key not in self._unreadable
            self._unreadable.add(key)
            return None
        about = os.fstat(fd)
        if (about.st_dev, about.st_ino) != key:
            # Another one by now: the next look finds it.
            os.close(fd)
            return None
        at = about.st_size if self._first and not self._watched.from_start else 0
        row = self._memory.pop(key, None)
        if row is not None:
            head = bytes.fromhex(row[3])
            if row[2] <= about.st_size and os.pread(fd, len(head), 0) == head:
                at = row[2]
        return _Reading(name, fd, key, at, at, os.pread(fd, HEAD, 0))

    def _read(self, reading: _Reading, found: list[Found], room: int, dropped: Counter[str]) -> bool:
        """Read on; whether there was anything new."""
        grew = False
        limit = self._watched.limit
        while len(found) < room:
            # A whole line may be as long as that, with its ending.
            data = os.pread(reading.fd, max(CHUNK, limit + 2), reading.at)
            end = data.rfind(b"\n") + 1
            if not end:
                if len(data) > limit + 1 or (reading.skipping and data):
                    if not reading.skipping:
                        dropped[TOO_LARGE] += 1
                        reading.skipping = True
                    self._pass_over(reading, len(data))
                    grew = True
                    continue
                break
            grew = True
            at = 0
            while at < end and len(found) < room:
                after = data.index(b"\n", at) + 1
                line = data[at : after - 1].removesuffix(b"\r")
                if reading.skipping:
                    reading.skipping = False
                    self._pass_over(reading, after - at)
                elif len(line) > limit:
                    dropped[TOO_LARGE] += 1
                    self._pass_over(reading, after - at)
                else:
                    reading.at += after - at
                    found.append(Found(line, reading.name, (reading, reading.at)))
                at = after
            if not reading.head:
                reading.head = os.pread(reading.fd, HEAD, 0)
        return grew

    @staticmethod
    def _pass_over(reading: _Reading, count: int) -> None:
        """Bytes that are no signal; settled with what comes before them, if that is."""
        if reading.settled == reading.at:
            reading.settled += count
        reading.at += count

    @staticmethod
    def _was_cut(reading: _Reading) -> bool:
        if os.fstat(reading.fd).st_size < reading.at:
            return True
        head = os.pread(reading.fd, HEAD, 0)
        known = reading.head[: reading.at]
        if head[: len(known)] != known:
            reading.head = head
            return True
        reading.head = head
        return False


@dataclass(slots=True)
class _State:
    """What is known of a whole file: how it was, since when, and whether it was taken so."""

    stamp: tuple[int, int, int, int]
    since: float
    taken: bool = False
    under_way: bool = False


@dataclass(slots=True)
class Files:
    """Whole files of a folder, each once it has not changed for ``rest`` seconds."""

    watched: Watched
    rest: float
    remove: bool
    remembered: dict[str, Any] | None
    _states: dict[str, _State] = field(default_factory=dict)

    def look(self, now: float, room: int) -> tuple[list[Found], Counter[str]]:
        """At most ``room`` files that were not found before, and what was dropped, by reason."""
        dropped: Counter[str] = Counter()
        found: list[Found] = []
        there = set()
        for name, about in entries(self.watched):
            there.add(name)
            stamp = (about.st_dev, about.st_ino, about.st_mtime_ns, about.st_size)
            state = self._states.get(name)
            if state is None or state.stamp != stamp:
                if state is not None and state.under_way:
                    continue
                state = self._states[name] = _State(stamp, now, self._is_known(name, stamp))
            if state.taken or now - state.since < self.rest or len(found) >= room:
                continue
            state.taken = True
            if about.st_size > self.watched.limit:
                dropped[TOO_LARGE] += 1
                continue
            try:
                body = (self.watched.path / name).read_bytes()
            except OSError:
                dropped[UNREADABLE] += 1
                continue
            state.under_way = True
            found.append(Found(body, name, name))
        known = [] if self.remembered is None else self.remembered["files"]
        self.remembered = {"files": known, "of": self.watched.mark}
        for name in self._states.keys() - there:
            if not self._states[name].under_way:
                del self._states[name]
        return found, dropped

    def settle(self, mark: str) -> None:
        """A file is done with; one that is to go is removed, unless it has changed since."""
        state = self._states.get(mark)
        if state is None:
            return
        state.under_way = False
        if self.remove:
            path = self.watched.path / mark
            with contextlib.suppress(OSError):
                about = path.stat()
                if (about.st_dev, about.st_ino, about.st_mtime_ns, about.st_size) == state.stamp:
                    path.unlink()

    def memory(self) -> dict[str, Any]:
        """What to remember."""
        known = {} if self.remembered is None else {row[0]: row for row in self.remembered["files"]}
        for name in self._states:
            known.pop(name, None)
        # Of what is not there just now, too: it may be back.
        rows = list(known.values())[-MOST_GONE:]
        rows += [
            [name, *state.stamp]
            for name, state in self._states.items()
            if state.taken and not state.under_way
        ]
        return {"files": rows, "of": self.watched.mark}

    def close(self) -> None:
        """Nothing is held open."""

    def _is_known(self, name: str, stamp: tuple[int, int, int, int]) -> bool:
        if self.remembered is None:
            # The first look ever.
            return not self.watched.from_start
        if [name, *stamp] in self.remembered["files"]:
            return True
        return self.remembered["of"] != self.watched.mark and not self.watched.from_start
