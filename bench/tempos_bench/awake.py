"""Keeps one core from sleeping: `python -m tempos_bench.awake`. Prints `ready`; ends by a signal.

It runs only when nothing else wants the core (SCHED_IDLE). An idle core takes tens of microseconds to
wake up, in a virtual machine above all, and a busy one does not: without this, load would seem to make
events faster. Real-time installations forbid their cores to sleep for the same reason.
"""

from __future__ import annotations

import os


def main() -> None:
    """Entry of the program."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    print("ready", flush=True)
    while True:
        pass


if __name__ == "__main__":
    main()
