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


def network_namespaces() -> set[int]:
    """Every network namespace that some process is in."""
    spaces = set()
    for process in Path("/proc").glob("[0-9]*/ns/net"):
        with suppress(FileNotFoundError, PermissionError):
            spaces.add(process.stat().st_ino)
    return spaces
