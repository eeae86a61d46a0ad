"""How the kernel schedules a process: what is asked of it, what it gives, and why not all of it.

Rules: a refusal never keeps anything from running, the next best is taken; what is told is read back from
the kernel and never believed to have happened.

SCHED_FIFO is given from outside, by the process that starts a worker, so the worker itself needs no
privilege. It takes ``CAP_SYS_NICE``, or a limit ``RLIMIT_RTPRIO`` that the broker raises beforehand where it
may (``CAP_SYS_RESOURCE``): then the capability can go once the worker has real time, and the worker that
replaces it gets the same. ``SCHED_RESET_ON_FORK`` keeps real time from what the worker might start.

Memory is not locked (mlockall): every buffer of the data path is touched all the time, so none is a candidate
for being paged out, while locking needs one more privilege and makes every allocation beyond its limit fail.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

_LINUX = sys.platform == "linux"
#: The most urgent of ordinary scheduling.
MOST_URGENT = -20


@dataclass(frozen=True, slots=True)
class Scheduling:
    """What a process has. ``policy``: fifo, other or what the kernel calls it; ``priority``: of real time.

    ``cpus``: those it may run on. ``reason``: why this and nothing better, for a person.
    """

    policy: str
    priority: int
    nice: int
    cpus: tuple[int, ...]
    reason: str


def allow(priority: int) -> None:
    """Let processes that this one starts have SCHED_FIFO up to ``priority``, where it may say so."""
    if not _LINUX:
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_RTPRIO)
    soft, hard = (each if each == resource.RLIM_INFINITY else max(each, priority) for each in limits)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_RTPRIO, (soft, hard))


def is_allowed(priority: int) -> bool:
    """Whether that holds, so that no privilege is needed for it."""
    if not _LINUX:
        return False
    import resource

    limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    return limit == resource.RLIM_INFINITY or limit >= priority


def give(pid: int, priority: int, cpus: Collection[int], wanted: Collection[int] = ()) -> Scheduling:
    """Schedule a process by SCHED_FIFO with ``priority`` (0: as ordinary) on ``cpus``, as far as that goes.

    ``wanted``: the CPUs that a person asked for, if any; the reason says so where they cannot be had.
    """
    if not _LINUX:
        return Scheduling("other", 0, 0, (), f"not known how on {sys.platform}")
    why = [_give_time(pid, priority)] if priority else ["ordinary scheduling, as configured"]
    refused = _try(lambda: os.sched_setaffinity(pid, cpus))
    had = cpus_of(pid)
    if refused is not None or (wanted and set(wanted) != set(had)):
        asked = ", ".join(map(str, wanted or sorted(cpus)))
        why.append(f"CPUs {asked} cannot all be had{f' ({refused})' if refused else ''}")
    return read(pid, "; ".join(why))


def pin(cpus: Collection[int]) -> str:
    """Keep every thread of this process on ``cpus``; "" or why that is not so."""
    if not _LINUX or not cpus:
        return "" if not cpus else f"CPUs cannot be chosen on {sys.platform}"
    for thread in Path("/proc/self/task").iterdir():
        refused = _try(lambda thread=int(thread.name): os.sched_setaffinity(thread, cpus))  # type: ignore[misc]
        # One that has ended meanwhile needs no CPU.
        if refused is not None and thread.exists():
            return f"cannot be kept on CPUs {', '.join(map(str, cpus))}: {refused}"
    missing = sorted(set(cpus) - set(cpus_of(0)))
    return f"there is no CPU {', '.join(map(str, missing))}" if missing else ""


def cpus_of(pid: int) -> tuple[int, ...]:
    """The CPUs that a process (0: this thread) may run on, in order; none where that cannot be told."""
    return tuple(sorted(os.sched_getaffinity(pid))) if _LINUX else ()


def read(pid: int, reason: str) -> Scheduling:
    """What a process has at this moment; raises :class:`ProcessLookupError` if it is gone."""
    policy = os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK
    names = {os.SCHED_OTHER: "other", os.SCHED_FIFO: "fifo", os.SCHED_RR: "rr", os.SCHED_BATCH: "batch"}
    return Scheduling(
        names.get(policy, str(policy)),
        os.sched_getparam(pid).sched_priority,
        os.getpriority(os.PRIO_PROCESS, pid),
        cpus_of(pid),
        reason,
    )


def _give_time(pid: int, priority: int) -> str:
    """Real time, or the most urgent that this process may give; why it became that."""
    import resource

    def fifo(level: int) -> Callable[[], None]:
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        return lambda: os.sched_setscheduler(pid, policy, os.sched_param(level))

    refused = _try(fifo(priority))
    if refused is None:
        return f"SCHED_FIFO {priority}, as configured"
    needs = f"it needs CAP_SYS_NICE, or RLIMIT_RTPRIO of {priority}"
    why = f"SCHED_FIFO {priority} was refused ({refused}): {needs}"
    allowed = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    if 0 < allowed < priority and _try(fifo(allowed)) is None:
        return f"{why}; {allowed} is what RLIMIT_RTPRIO allows"
    # A limit of n allows nice values down to 20 - n.
    for nice in sorted({MOST_URGENT, min(0, 20 - resource.getrlimit(resource.RLIMIT_NICE)[0])} - {0}):
        if _try(lambda nice=nice: os.setpriority(os.PRIO_PROCESS, pid, nice)) is None:  # type: ignore[misc]
            return f"{why}; nice {nice} instead"
    return f"{why}; ordinary scheduling instead"


def _try(what: Callable[[], None]) -> str | None:
    """Why the kernel refused, or None."""
    try:
        what()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None
