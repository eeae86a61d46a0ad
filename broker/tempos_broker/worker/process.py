"""The worker's process as the broker sees it: started, spoken to, ended.

It inherits the descriptors it needs and nothing else, is in a process group of its own (a signal that a
terminal sends to all is for the broker, which then ends the worker in order), and dies with the thread
that started it: so workers are started on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tempos_broker.config.apart import alike
from tempos_broker.worker.descriptors import send
from tempos_broker.worker.supervisor import Child, Spawn

log = logging.getLogger("tempos.broker.worker")

#: Seconds that a killed process may take to be gone.
END_PATIENCE = 10.0
#: Not a session: to each of those the kernel gives an equal share of a core (sched_autogroup), whatever the
#: niceness of what runs in it.
_APART: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}


class _Stream(asyncio.Protocol):
    """Hands on what comes, and that nothing more does."""

    def __init__(self, received: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        self._received = received
        self._ended = ended

    def data_received(self, data: bytes) -> None:
        self._received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()


class WorkerProcess:
    """A running worker."""

    def __init__(
        self, process: subprocess.Popen[bytes], stream: asyncio.Transport, beside: socket.socket
    ) -> None:
        self._process = process
        self._stream = stream
        self._beside = beside

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, frame: bytes) -> None:
        if not self._stream.is_closing():
            self._stream.write(frame)

    def send_descriptors(self, descriptors: Sequence[int]) -> None:
        # What cannot be handed over the worker waits for in vain: then it is replaced.
        with contextlib.suppress(OSError):
            send(self._beside, descriptors)

    async def end(self) -> str:
        self._stream.abort()
        self._beside.close()
        return await asyncio.get_running_loop().run_in_executor(None, _end, self._process)


def spawner(descriptors: Callable[[], Iterable[int]]) -> Spawn:
    """What starts workers that inherit ``descriptors``, under the same numbers; raises :class:`OSError`."""

    async def spawn(received: Callable[[bytes], None], ended: Callable[[], None]) -> Child:
        ours, beside, process = _start(descriptors())
        try:
            stream, _ = await asyncio.get_running_loop().create_unix_connection(
                lambda: _Stream(received, ended), sock=ours
            )
        except BaseException:
            ours.close()
            beside.close()
            _end(process)
            raise
        return WorkerProcess(process, stream, beside)

    return spawn


def _start(descriptors: Iterable[int]) -> tuple[socket.socket, socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    beside, other = socket.socketpair()
    beside.setblocking(False)
    with theirs, other:
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
        command = [
            sys.executable,
            "-m",
            "tempos_broker.worker",
            str(theirs.fileno()),
            str(other.fileno()),
            str(os.getpid()),
            level,
        ]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), other.fileno(), *descriptors),
                **_APART,
                **alike(),
            )
        except BaseException:
            ours.close()
            beside.close()
            raise
    return ours, beside, process


def _end(process: subprocess.Popen[bytes]) -> str:
    # Of a process that has ended already this changes nothing, not even how it did.
    process.kill()
    try:
        code = process.wait(END_PATIENCE)
    except subprocess.TimeoutExpired:
        log.critical(
            "the SQ worker %d was killed and does not end; what it holds is in no account", process.pid
        )
        return "does not end"
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
