"""runqlat: how long threads that could run wait for a CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tempos_observe.frame.session import Session
from tempos_observe.tool import Example, Histogram, Hook, Tool, Value


def _waits(session: Session) -> Iterator[tuple[tuple[Value, ...], Sequence[int]]]:
    for _, waits in session.rows("waits"):
        yield (), waits.bucket


TOOL = Tool(
    name="runqlat",
    question="How long do threads that could run wait for a CPU?",
    programs="runqlat",
    hooks=(
        Hook("tempos_switched", "tracepoint sched_switch, where the kernel's own account of waiting is read"),
    ),
    views=lambda wishes: (Histogram("usecs", (), _waits),),
    blind=(
        "a thread that waits still, and what it waited before this began",
        "time in which a thread has its CPU and the machine below has not (steal), or an interrupt has it",
    ),
    examples=(
        Example("runqlat --duration 10", "is there more to do than CPUs can?"),
        Example("runqlat --broker --interval 1", "how the broker, its worker and the invokers get to run"),
    ),
)
