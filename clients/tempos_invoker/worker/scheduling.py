"""How the kernel schedules this worker: what is asked of it, and what was really got.

Rules: a refusal never keeps a worker from running; what is told is read back from the kernel. Real time has
a budget: what never sleeps is stopped by the kernel, for longer and when it likes, and leaves nothing to
others meanwhile. So a worker under SCHED_FIFO sleeps to the end of each window in which it used its share
of a core, in the middle of an event if need be.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tempos_invoker.worker.unfit import Unfit

#: The share of one core that a worker under real time may use, where nothing is said.
SHARE = 0.8
#: Seconds in which that is looked at.
WINDOW = 0.1

_NAMES = {os.SCHED_OTHER: "other", os.SCHED_FIFO: "fifo", os.SCHED_RR: "rr", os.SCHED_BATCH: "batch"}
_NS = 1_000_000_000


def apply(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """Do what is wished: ``fifo`` (a priority, 0: ordinary), ``cpus``, ``budget`` (see :func:`budget`).

    Gives what there is then. ``reason`` says what was refused, and why; "" where all was got.
    """
    refused = []
    cpus = [int(cpu) for cpu in wishes.get("cpus") or ()]
    if cpus:
        try:
            os.sched_setaffinity(0, cpus)
        except (OSError, ValueError) as error:
            refused.append(f"CPUs {', '.join(map(str, cpus))} cannot be had: {error}")
    priority = int(wishes.get("fifo") or 0)
    share = 0.0
    if priority:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
            share = budget(wishes)
        except OSError as error:
            refused.append(
                f"SCHED_FIFO {priority} was refused ({error.strerror}); needs CAP_SYS_NICE or RLIMIT_RTPRIO"
            )
    if share:
        try:
            _start_budget(share)
        except (Unfit, OSError) as error:
            share = 0.0
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            refused.append(f"SCHED_FIFO {priority} is given back, for its budget cannot be had: {error}")
    return {**read("; ".join(refused)), "budget": share}


def budget(wishes: Mapping[str, Any]) -> float:
    """The share of one core that real time may use: what is wished, 0 for no bound, or :data:`SHARE`."""
    wished = wishes.get("budget")
    return SHARE if wished is None else min(max(float(wished), 0.0), 1.0)


def fifo() -> int:
    """The priority that this worker has under SCHED_FIFO, or 0."""
    if os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK != os.SCHED_FIFO:
        return 0
    return os.sched_getparam(0).sched_priority


def read(reason: str = "") -> dict[str, Any]:
    """What this process has."""
    policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
    return {
        "policy": _NAMES.get(policy, str(policy)),
        "priority": os.sched_getparam(0).sched_priority,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cpus": sorted(os.sched_getaffinity(0)),
        "reason": reason,
    }


def _start_budget(share: float) -> None:
    from tempos_invoker.worker.native import compiled

    code = compiled()[1].tempos_budget_start(int(share * WINDOW * _NS), int(WINDOW * _NS))
    if code < 0:
        raise OSError(-code, os.strerror(-code))
