"""What the kernel tells of processes on this machine: time, memory, and the BPF programs that they hold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_PEAK_RESET = "5"
_TICKS = os.sysconf("SC_CLK_TCK")
#: Kinds of BPF maps that hold maps: an array of them, a hash of them.
_OF_MAPS = (12, 13)


def used(pids: Sequence[int], packets: bool = False, families: bool = False) -> list[float]:
    """Seconds on a processor of each process; with ``packets``, one more of the kernel's packet threads.

    ``families``: of each process and all that it started, also those that have ended and were waited for.
    """
    found = [_family(pid) if families else _seconds(pid) for pid in pids]
    return [*found, sum(map(_seconds, _packet_threads()))] if packets else found


def peak(pid: int) -> int:
    """The largest memory of a process, bytes; 0 where the kernel does not tell."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def forget_peak(pid: int) -> None:
    """Let the peak begin anew. Without the right to do so, it is that since the process began."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text(_PEAK_RESET)


def hurry(pid: int, priority: int) -> None:
    """Have the threads that a process has run before all ordinary ones; what it starts later is ordinary.

    All of them: one that has Python's lock and does not get to run keeps the others waiting.
    """
    for thread in Path(f"/proc/{pid}/task").iterdir():
        # One that ends meanwhile is in nobody's way.
        with suppress(ProcessLookupError):
            policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))


def programs(pid: int) -> dict[str, list[int]]:
    """The BPF programs that a process holds open: by id, instructions, runs and run time (ns).

    Runs and time grow only while the kernel's statistics are on.
    """
    held: dict[str, list[int]] = {}
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        # A descriptor that closes while we look is none of those we look for.
        with suppress(FileNotFoundError):
            fields = dict(line.split(":", 1) for line in entry.read_text().splitlines() if ":" in line)
            if "verified_insns" in fields:
                names = ("verified_insns", "run_cnt", "run_time_ns")
                held[fields["prog_id"].strip()] = [int(fields[name]) for name in names]
    return held


def held(pid: int) -> dict[str, int]:
    """What a process holds: ``resident`` bytes of memory, ``descriptors``, ``maps`` bytes of BPF maps.

    ``private``: of the memory that which is no file's; of those, programs and libraries above all, the kernel
    decides how much it has in memory. Maps inside its maps of maps are among the maps; to see those needs the
    rights that it has itself.
    """
    resident = private = descriptors = 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            resident = int(line.split()[1]) * 1024
        elif line.startswith("RssAnon:"):
            private = int(line.split()[1]) * 1024
    maps: dict[int, int] = {}
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):
            fields = dict(line.split(":", 1) for line in entry.read_text().splitlines() if ":" in line)
            descriptors += 1
            if "map_id" not in fields or int(fields["map_id"]) in maps:
                continue
            maps[int(fields["map_id"])] = int(fields["memlock"])
            if int(fields["map_type"]) in _OF_MAPS:
                maps |= _inside(int(fields["map_id"]))
    return {
        "resident": resident, "private": private, "descriptors": descriptors, "maps": sum(maps.values())
    }  # fmt: skip


def _inside(number: int) -> dict[int, int]:
    """Bytes of each map that stands in a map of maps."""
    # Only a broker with a fast path has maps; who looks at others needs no libbpf.
    from tempos_bpf.maps import map_by_id

    found = {}
    with map_by_id(number) as outer:
        for key in outer.keys():  # noqa: SIM118 -- no mapping
            inner = outer.inner(key)
            if inner is not None:
                with inner:
                    told = Path(f"/proc/self/fdinfo/{inner.fd}").read_text()
                fields = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
                found[int(fields["map_id"])] = int(fields["memlock"])
    return found


def _family(pid: int) -> float:
    """Of a process and all its descendants; what has ended is in the account of who waited for it."""
    total = 0.0
    # One that ends while we look is in its parent's account the next time.
    with suppress(FileNotFoundError, ProcessLookupError):
        total = _seconds(pid)
        # Behind the name, which may hold anything, the fields 14 and 15 are cutime and cstime.
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, after[13:15])) / _TICKS
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(map(_family, map(int, (task / "children").read_text().split())))
    return total


def _packet_threads() -> list[int]:
    """The kernel's threads ksoftirqd/N; none are to be seen from inside a container."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "comm").read_text().startswith("ksoftirqd/"):
                found.append(int(entry.name))
    return found


def _seconds(pid: int) -> float:
    """Time on a processor of all threads, to the nanosecond; those that ended in between are not in it."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9
