"""A worker's process as the invoker has it: what it answered before it died is known."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.workers import SPEC

from tempos_bench.nodes.patience import patience
from tempos_invoker.workers.frames import Answer, Call, Condition
from tempos_invoker.workers.log import FunctionLog
from tempos_invoker.workers.process import WorkerProcess

CODE = """
import os
import signal
import subprocess

ALL = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)

def f(body):
    if body == b"exit":
        os._exit(3)
    if body == b"signals":
        for number in ALL:
            os.kill(os.getpid(), number)
    if body == b"program":
        ended = []
        for number in ALL:
            with subprocess.Popen(["sleep", "600"]) as child:
                child.send_signal(number)
            ended.append(-child.returncode)
        return str(ended)
    if body == b"fork":
        ended = []
        for number in ALL:
            if not (child := os.fork()):
                while True:
                    signal.pause()
            os.kill(child, number)
            ended.append(os.waitpid(child, 0)[1])
        return str(ended)
    return body
"""


class Owner:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.hello: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_hello(self, worker: WorkerProcess, hello: Mapping[str, Any]) -> None:
        self.hello.set_result(hello["ok"])

    def on_answers(self, worker: WorkerProcess, answers: list[Answer]) -> None:
        self.answers += answers

    def on_gone(self, worker: WorkerProcess, why: str) -> None:
        self.gone.set_result(why)


async def start(folder: Path) -> tuple[WorkerProcess, Owner]:
    """One that is ready."""
    code = folder / "m.py"
    code.write_text(CODE)
    owner = Owner()
    spec = {**SPEC, "code": str(code)}
    worker = WorkerProcess(1, spec, owner, FunctionLog("f", time.time, time.monotonic))
    worker.start()
    assert await asyncio.wait_for(owner.hello, patience(20))
    return worker, owner


async def test_signals_that_everybody_gets_cut_off_nothing_and_end_what_it_started(tmp_path: Path) -> None:
    """As by ``systemctl kill``; the invoker sees to its workers."""
    worker, owner = await start(tmp_path)
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
    for number in numbers:
        os.kill(worker.pid, number)
    for ticket, body in enumerate((b"signals", b"program", b"fork", b"exit")):
        worker.send(Call(ticket, body).encode())
    assert await asyncio.wait_for(owner.gone, patience(20)) == "exited with code 3"
    ended = str([int(number) for number in numbers]).encode()
    assert [each.output for each in owner.answers] == [b"signals", ended, ended]


async def test_what_one_answered_that_died_with_calls_unread_is_not_lost(tmp_path: Path) -> None:
    worker, owner = await start(tmp_path)
    for ticket, body in enumerate((b"one", b"two", b"exit", b"never", b"begun")):
        worker.send(Call(ticket, body).encode())
    # The loop has no turn before the process has ended: all that it said waits, and so does its end.
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - that is what it is for

    assert await asyncio.wait_for(owner.gone, patience(20)) == "exited with code 3"
    assert [(each.ticket, each.condition, each.output) for each in owner.answers] == [
        (0, Condition.SUCCEEDED, b"one"), (1, Condition.SUCCEEDED, b"two"),
    ]  # fmt: skip
