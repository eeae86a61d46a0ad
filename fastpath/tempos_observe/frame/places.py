"""Where a program is attached whose section cannot say it: functions of files, perf events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempos_observe.wishes import Wishes


@dataclass(frozen=True, slots=True)
class Function:
    """The begin of a function of a file, or its return. ``file``: found by what was asked for."""

    file: Callable[[Wishes], Path]
    symbol: str
    returns: bool = False

    def attach(self, program: Any, wishes: Wishes) -> list[Any]:
        from tempos_bpf.tracing import attach_uprobe

        return [attach_uprobe(program, self.file(wishes), self.symbol, returns=self.returns)]


@dataclass(frozen=True, slots=True)
class PerfEvent:
    """A perf event of every CPU, by the kernel's numbers: each ``period``th, or ``frequency`` a second."""

    kind: int
    config: int
    period: int = 0
    frequency: int = 0

    def attach(self, program: Any, wishes: Wishes) -> list[Any]:
        from tempos_bpf.tracing import attach_perf

        return list(
            attach_perf(program, self.kind, self.config, period=self.period, frequency=self.frequency)
        )
