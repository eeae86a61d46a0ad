"""A tool of `tempos observe` as a program reads it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from types import TracebackType
from typing import Any

from tempos import Unavailable
from tempos_bench.nodes.patience import patience

_LIMIT = patience(30.0)


class Tool:
    """Entered, it is attached. Raises :class:`Unavailable` with its words where it cannot run."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments

    def __enter__(self) -> Tool:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tempos", "observe", *self._arguments, "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise Unavailable(self._process.communicate()[1].strip())
        return self

    def stop(self) -> list[dict[str, Any]]:
        """What it told since it began, at most some thousand lines: nobody reads meanwhile."""
        self._process.send_signal(signal.SIGINT)
        out, _ = self._process.communicate(timeout=_LIMIT)
        return [json.loads(line) for line in out.splitlines()]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
