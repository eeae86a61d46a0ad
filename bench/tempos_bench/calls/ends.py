"""Those who run the function where no client library does: how they are told to begin, and what came.

Each is asked as the subscribers of :mod:`tempos_bench.peers` are, and answers the same.
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

from tempos_bench.calls import event
from tempos_bench.measure import samples
from tempos_bench.nodes.node import Program, ProgramFailed
from tempos_bench.nodes.patience import patience
from tempos_bench.peers.talk import Mark

_LOOK_EVERY = 0.01
#: Digits of the time that stands behind a mark in a line.
_TIME = 20
_MOST_NS = 2**32 - 1


class Worker:
    """The recorder inside a worker of an invoker (:mod:`.worker`); ``program``: the invoker."""

    def __init__(self, program: Program, listener: socket.socket) -> None:
        self._program = program
        listener.settimeout(patience(30.0))
        try:
            self._socket, _ = listener.accept()
        except TimeoutError as error:
            raise ProgramFailed(f"no worker has loaded the function\n{program.output}") from error
        self._lines = self._socket.makefile("rw")

    @property
    def pid(self) -> int:
        return self._program.pid

    @property
    def output(self) -> str:
        return self._program.output

    def ask(self, message: object, limit: float = 30.0) -> Any:
        self._socket.settimeout(patience(limit))
        try:
            print(json.dumps(message), file=self._lines, flush=True)
            answer = self._lines.readline()
        except OSError as error:
            raise ProgramFailed(f"the worker does not answer: {error}\n{self.output}") from error
        if not answer:
            raise ProgramFailed(f"the worker is gone\n{self.output}")
        return json.loads(answer)

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class Programs:
    """Programs (count.c) of which each appends a line to a file; ``program``: who starts them."""

    def __init__(self, program: Program, path: Path) -> None:
        self._program, self._path = program, path
        self._command: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        return self._program.pid

    @property
    def output(self) -> str:
        return self._program.output

    def ask(self, message: object, limit: float = 30.0) -> Any:
        if isinstance(message, dict):
            self._command = message
            self._path.write_bytes(b"")
            return {"begun": True}
        size, since = -1, time.monotonic()
        while time.monotonic() - since < self._command["idle"]:
            time.sleep(_LOOK_EVERY)
            if (now := self._path.stat().st_size) != size:
                size, since = now, time.monotonic()
        return self._account(self._path.read_bytes().splitlines())

    def _account(self, lines: list[bytes]) -> dict[str, Any]:
        ours = [(mark, at) for mark, at in map(_read, lines) if mark.run == self._command["run"]]
        received = len({mark.sequence for mark, _ in ours})
        waits = [min(max(at - mark.sent_ns, 0), _MOST_NS) for mark, at in ours[: self._command["room"]]]
        times = [at for _, at in ours]
        return {
            "received": received,
            "repeated": len(ours) - received,
            "damaged": 0,
            "stale": len(lines) - len(ours),
            "first_ns": min(times, default=0),
            "last_ns": max(times, default=0),
            "by_member": [received],
            "latency": samples.pack(waits),
        }


def _read(line: bytes) -> tuple[Mark, int]:
    return Mark(*event.numbers(line, 0)), int(line[-_TIME:])
