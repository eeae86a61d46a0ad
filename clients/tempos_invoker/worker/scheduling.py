"""How the kernel schedules this worker: what is asked of it, and what was really got.

Rule: a refusal never keeps a worker from running; what is told is read back from the kernel.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

_NAMES = {os.SCHED_OTHER: "other", os.SCHED_FIFO: "fifo", os.SCHED_RR: "rr", os.SCHED_BATCH: "batch"}


def apply(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """Do what is wished: ``fifo`` (a priority, 0: ordinary), ``cpus`` (numbers). Gives what there is then.

    ``reason`` says what was refused, and why; "" where all was got.
    """
    refused = []
    cpus = [int(cpu) for cpu in wishes.get("cpus") or ()]
    if cpus:
        try:
            os.sched_setaffinity(0, cpus)
        except (OSError, ValueError) as error:
            refused.append(f"CPUs {', '.join(map(str, cpus))} cannot be had: {error}")
    priority = int(wishes.get("fifo") or 0)
    if priority:
        try:
            policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(0, policy, os.sched_param(priority))
        except OSError as error:
            refused.append(
                f"SCHED_FIFO {priority} was refused ({error.strerror}); needs CAP_SYS_NICE or RLIMIT_RTPRIO"
            )
    return read("; ".join(refused))


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
