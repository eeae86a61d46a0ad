"""pauses: what ran on a CPU while a thread that was ready to run waited for it."""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tempos_observe.frame.session import Session
from tempos_observe.tool import Column, Events, Example, Hook, Option, Row, Table, Tool

_COMM_LEN = 16
_NS = 1_000_000
#: Names of what is no process.
_IDLE, _HARD, _SOFT = "idle", "interrupts", "soft interrupts"
_COLUMNS = (
    Column("TIME", "time", 12),
    Column("PID", "pid", 7, "d"),
    Column("TID", "tid", 7, "d"),
    Column("COMM", "comm", 15),
    Column("CPU", "cpu", 3, "d"),
    Column("BEGAN", "began", 6),
    Column("WAITED(ms)", "waited_ms", 10, ".3f"),
    Column("RAN(ms)", "ran", 7),
)
_CULPRITS = (
    Column("COMM", "comm", 15),
    Column("PID", "pid", 7, "d"),
    Column("PAUSES", "pauses", 6, "d"),
    Column("RAN(ms)", "ran_ms", 10, ".3f"),
)


class _Culprit(NamedTuple):
    """Who ran: a process by its first thread's name then, or no process."""

    comm: str
    pid: int | None


@dataclass(slots=True)
class _Blame:
    pauses: int = 0
    ns: int = 0


def _ran(pause: Any) -> dict[_Culprit, int]:
    """Who ran how many ns of a pause, the longest first."""
    found: dict[_Culprit, int] = defaultdict(int)
    for at in range(pause.told):
        raw: bytes = pause.comms[at * _COMM_LEN : (at + 1) * _COMM_LEN]
        comm = raw.partition(b"\0")[0].decode(errors="backslashreplace")
        who = _Culprit(comm, pause.pids[at]) if pause.threads[at] else _Culprit(_IDLE, None)
        found[_Culprit(_HARD, None)] += pause.hard[at]
        found[_Culprit(_SOFT, None)] += pause.soft[at]
        found[who] += max(pause.ran[at] - pause.hard[at] - pause.soft[at], 0)
    return {who: ns for who, ns in sorted(found.items(), key=lambda each: -each[1]) if ns}


def _row(pause: Any, session: Session) -> Row:
    ran = _ran(pause)
    blamed: dict[_Culprit, _Blame] = session.state
    for who, ns in ran.items():
        blame = blamed[who]
        blame.pauses += 1
        blame.ns += ns
    told = [
        f"{comm}[{pid}] {ns / _NS:.3f}" if pid else f"{comm} {ns / _NS:.3f}"
        for (comm, pid), ns in ran.items()
    ]
    return (
        session.wall(pause.ns).strftime("%H:%M:%S.%f")[:-3],
        pause.pid,
        pause.thread,
        pause.comm,
        pause.cpu,
        "pushed" if pause.pushed else "woken",
        pause.waited / _NS,
        ", ".join([*told, "and more"] if pause.more else told),
    )


def _culprits(session: Session) -> Iterator[Row]:
    for (comm, pid), blame in session.state.items():
        yield comm, pid, blame.pauses, blame.ns / _NS


def _milliseconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.001 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r}: milliseconds, from 0.001 to a million")
    return value


_UNTOLD = "how much of it interrupts took"
TOOL = Tool(
    name="pauses",
    question="What ran on a CPU while a thread that was ready waited for it?",
    programs="pauses",
    hooks=(
        Hook("tempos_woken", "tracepoint sched_wakeup: a thread becomes ready"),
        Hook("tempos_begun", "tracepoint sched_wakeup_new: a new one does"),
        Hook("tempos_switched", "tracepoint sched_switch: what leaves a CPU, and what comes to it"),
        Hook("tempos_hard_begins", "tracepoint irq_handler_entry: an interrupt is handled", without=_UNTOLD),
        Hook("tempos_hard_ends", "tracepoint irq_handler_exit", without=_UNTOLD),
        Hook(
            "tempos_soft_begins",
            "tracepoint softirq_entry: work that interrupts put off, as the network's",
            without=_UNTOLD,
        ),
        Hook("tempos_soft_ends", "tracepoint softirq_exit", without=_UNTOLD),
    ),
    views=lambda wishes: (
        Events("pauses", "tempos_pause", _COLUMNS, _row),
        Table("culprits", "What ran meanwhile:", _CULPRITS, _culprits, order="ran_ms"),
    ),
    blind=(
        "a thread that waits still; of a wait the last 64 that ran on a CPU (then: `and more`)",
        "time that the machine below takes from a CPU (steal, /proc/stat): it counts for whoever had the CPU",
        "a thread that has its CPU but waits for a lock, a page or, in Python, for the interpreter's lock",
    ),
    options=(Option("longer", "pauses of at least so many ms (default: 1)", _milliseconds, 1.0, "MS"),),
    rodata=lambda wishes: {"longer_ns": int(wishes.own["longer"] * _NS).to_bytes(8, "little")},
    start=lambda session: defaultdict(_Blame),
    examples=(
        Example("pauses --broker", "who keeps the broker, its worker and the invokers from their CPU"),
        Example("pauses --pid 4711 --longer 5 --duration 60", "a minute, pauses of 5 ms and more"),
    ),
)
