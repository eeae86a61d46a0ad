"""What processor time and memory a server takes while it serves, by the kernel's account."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_PEAK_RESET = "5"


@dataclass(slots=True)
class Usage:
    """Seconds of processor time, and the server's largest memory (bytes), while it was looked at.

    ``all``: of the server, of both ends, and of the kernel's own threads for packets: what a packet's way
    through the kernel takes is charged to whoever runs just then, on the fast path to the publisher.
    """

    server: float = 0.0
    all: float = 0.0
    peak: int = 0


@contextmanager
def measured(server: int, ends: Sequence[int]) -> Iterator[Usage]:
    """What processes use inside the block; complete after it."""
    usage = Usage()
    # Without the right to reset it, the peak is that since the process began.
    with suppress(OSError):
        Path(f"/proc/{server}/clear_refs").write_text(_PEAK_RESET)
    others = (*ends, *_packet_threads())
    mine, theirs = _seconds(server), sum(map(_seconds, others))
    yield usage
    usage.server = _seconds(server) - mine
    usage.all = usage.server + sum(map(_seconds, others)) - theirs
    usage.peak = _peak(server)


def _packet_threads() -> list[int]:
    """The kernel's threads ksoftirqd/N; none are to be seen from inside a container."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "comm").read_text().startswith("ksoftirqd/"):
                found.append(int(process.name))
    return found


def _seconds(pid: int) -> float:
    """Time on a processor of all threads, to the nanosecond; those that ended in between are not in it."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
