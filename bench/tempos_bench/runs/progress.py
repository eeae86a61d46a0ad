"""How far a run is: a bar with the time left on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tempos_bench.runs.run import Display


class Lines:
    """One line for each thing that is begun."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name, self._stream = name, stream
        self._began = time.monotonic()

    def show(self, text: str, done: int, total: int, left: float | None) -> None:
        """Print it."""
        took = time.monotonic() - self._began
        remaining = f" ({done} of {total}, {duration(left)} left)" if left else ""
        print(f"[{took:5.1f} s] {self._name}: {text}{remaining}", file=self._stream, flush=True)


@contextmanager
def display(name: str, given: TextIO | None = None) -> Iterator[Display]:
    """The display that suits a stream (standard error), named for the scenario; a bar is gone at the end."""
    stream = given or sys.stderr
    if not stream.isatty():
        yield Lines(name, stream)
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
    except ImportError:
        yield Lines(name, stream)
        return
    columns = ("{task.fields[name]}", BarColumn(24), "{task.percentage:>3.0f} %", "{task.fields[left]:>9}",
               TextColumn("{task.description}", markup=False))  # fmt: skip
    # Drawn when something begins and not in between: what is measured has the cores to itself.
    with Progress(*columns, console=Console(file=stream), transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=None, name=name, left="")

        class Bar:
            """The bar; it has no end before the number of variants is known."""

            def show(self, text: str, done: int, total: int, left: float | None) -> None:
                remaining = f"{duration(left)} left" if left is not None else ""
                progress.update(task, description=text, completed=done, total=total or None, left=remaining)
                progress.refresh()

        yield Bar()


def duration(seconds: float | None) -> str:
    """As in `1:05`, minutes and seconds."""
    whole = round(seconds or 0)
    return f"{whole // 60}:{whole % 60:02}"
