"""execsnoop: which programs are started, however short they live."""

from __future__ import annotations

from typing import Any

from tempos_observe.frame.session import Session
from tempos_observe.tool import Column, Events, Example, Hook, Row, Tool

_COLUMNS = (
    Column("TIME", "time_ms", 7, "<d"),
    Column("PID", "pid", 6, "<d"),
    Column("ARGS", "args", 4),
)


def _row(started: Any, session: Session) -> Row:
    taken = started.args[: started.length]
    words = [each.decode(errors="backslashreplace") for each in taken.rstrip(b"\0").split(b"\0")]
    text = " ".join(words) if started.length else started.comm
    return (
        (started.ns - session.started_ns) // 1_000_000,
        started.pid,
        f"{text}..." if started.length > len(started.args) else text,
    )


TOOL = Tool(
    name="execsnoop",
    question="Which programs are started, with which arguments?",
    programs="execsnoop",
    hooks=(
        Hook("tempos_executed", "tracepoint sched_process_exec: every program that a process turns into"),
    ),
    views=lambda wishes: (Events("execs", "tempos_exec", _COLUMNS, _row),),
    blind=(
        "attempts that fail, and processes that only fork",
        "arguments beyond 4,096 bytes: they end in `...`; a script is shown with its interpreter, as it runs",
    ),
    examples=(
        Example("execsnoop", "TIME is in ms since this began"),
        Example("execsnoop --broker", "what the broker, its worker and the invokers start"),
    ),
)
