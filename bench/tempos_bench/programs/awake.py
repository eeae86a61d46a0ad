"""Keeps one core from sleeping: `python -m tempos_bench.programs.awake`. Prints `ready`; ends by a signal.

An idle core takes tens of microseconds to wake up, in a virtual machine above all, and a busy one does not:
without this, load would seem to make events faster. Real-time installations forbid their cores to sleep for
the same reason.

It is a loop that runs only when nothing else wants the core (SCHED_IDLE). But where the kernel gives each
session an equal share of a core (sched_autogroup, sched(7)) that counts only among those of one session: in
one of its own, as on a host, a loop would hold up the broker for milliseconds. There it asks the kernel to
keep all cores within 0 us of waking (PM QoS) instead; what is lacking for that stands behind `ready`.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
_LATENCY = Path("/dev/cpu_dma_latency")
_DRIVER = Path("/sys/devices/system/cpu/cpuidle/current_driver")


def main() -> None:
    """Entry of the program."""
    if os.getsid(0) == os.getpid() and _read(_AUTOGROUP) == "1":
        _by_request()
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    print("ready", flush=True)
    while True:
        pass


def _by_request() -> None:
    """Forbid sleep for as long as we live, as far as the kernel has a say in it."""
    try:
        # The request holds while the file is open.
        asked = os.open(_LATENCY, os.O_WRONLY)
        os.write(asked, bytes(4))
        lacking = "" if _read(_DRIVER) not in ("", "none") else "the kernel has no say in how cores sleep"
    except OSError as error:
        lacking = f"{_LATENCY}: {error.strerror}"
    print("ready", f"idle cores may sleep: {lacking}" if lacking else "", flush=True)
    while True:
        signal.pause()


def _read(path: Path) -> str:
    """What a file of the kernel's says; nothing where there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
