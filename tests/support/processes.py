"""Watching processes end, from the outside: by the kernel's word, not by looking again and again."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> set[int]:
    """All processes below ``pid`` now."""
    found: set[int] = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found |= {child} | descendants(child)
    return found


def still_alive(pids: set[int], limit: float) -> set[int]:
    """Wait until all of ``pids`` have ended, at most ``limit`` seconds; those that have not."""
    end = time.monotonic() + limit
    alive = set()
    for pid in pids:
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                if not poll.poll(max(end - time.monotonic(), 0) * 1000):
                    alive.add(pid)
            finally:
                os.close(descriptor)
    return alive


class Spaces:
    """Network namespaces other than this process's, held: no new one gets the number of one that is gone."""

    def __init__(self) -> None:
        self._own = Path("/proc/self/ns/net").stat().st_ino
        self._held: dict[int, int] = {}

    def add(self, path: str) -> None:
        """The one that this link of procfs leads to; none, if its process has ended."""
        with suppress(FileNotFoundError, ProcessLookupError):
            descriptor = os.open(path, os.O_RDONLY)
            number = os.fstat(descriptor).st_ino
            if number == self._own or number in self._held:
                os.close(descriptor)
            else:
                self._held[number] = descriptor

    def __len__(self) -> int:
        return len(self._held)

    def used(self) -> dict[int, int]:
        """The processes that are in one of them, and which."""
        found = {}
        for process in Path("/proc").glob("[0-9]*/ns/net"):
            with suppress(FileNotFoundError, PermissionError):
                if (number := process.stat().st_ino) in self._held:
                    found[int(process.parts[2])] = number
        return found

    def inhabited(self, limit: float) -> set[int]:
        """Wait until nobody is in any of them, at most ``limit`` seconds; the processes that still are."""
        end = time.monotonic() + limit
        while (inside := set(self.used())) and not (alive := still_alive(inside, end - time.monotonic())):
            continue
        return alive if inside else inside

    def __enter__(self) -> Spaces:
        return self

    def __exit__(self, *_: object) -> None:
        while self._held:
            os.close(self._held.popitem()[1])
