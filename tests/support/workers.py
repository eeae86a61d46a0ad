"""Workers of an invoker without an invoker: a process at the end of a socket pair, in the test's hand."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from types import TracebackType
from typing import Any

from tempos_bench.nodes.patience import patience
from tempos_invoker.workers import frames
from tempos_invoker.workers.frames import Answer, Call

SPEC: dict[str, Any] = {
    "function": "f", "class": "BQ", "index": 0, "mode": "python", "code": "", "entry": "m:f", "args": [],
    "env": {}, "cwd": "", "user": "", "timeout": 1.0, "load": "keep", "memory": 0, "output": 0, "ahead": 0,
    "processes": 0, "grants": [], "warm": None, "version": "1", "scheduling": {}, "cache": "",
}  # fmt: skip


class WorkerProcess:
    """``python -m tempos_invoker.worker`` with this specification; ``hello`` is what it said."""

    def __init__(self, **spec: Any) -> None:
        self._spec = {**SPEC, **spec}

    def __enter__(self) -> WorkerProcess:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock = ours
        ours.settimeout(patience(20))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tempos_invoker.worker", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self._spec["env"]},
            start_new_session=True,
        )
        theirs.close()
        ours.send(json.dumps(self._spec).encode())
        (hello,) = self.receive()
        assert hello.condition == frames.HELLO
        self.hello = json.loads(hello.output)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()
        try:
            self.code = self.process.wait(patience(20))
        finally:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.output = self.process.stdout.read().decode()
        self.process.stdout.close()

    def send(self, *calls: Call) -> None:
        self.sock.send(b"".join(call.encode() for call in calls))

    def receive(self) -> list[Answer]:
        return list(frames.answers(self.sock.recv(frames.MESSAGE)))

    def ask(self, body: bytes, ticket: int = 1, **more: Any) -> Answer:
        self.send(Call(ticket, body, **more))
        (answer,) = self.receive()
        assert answer.ticket == ticket
        return answer
