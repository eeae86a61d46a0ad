"""One worker as the invoker has it: a process, a socket pair to it, and a pipe of what it writes.

Started by posix_spawn, which copies nothing of the invoker however large it is; the event loop's own
support for processes is not used. Rules: the loop never waits for a worker; a worker leads a process group of
its own, and when it ends, whatever is left of that group is killed; its end is told once, after all that it
answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from tempos import Unavailable
from tempos_invoker.modes import INSIDE
from tempos_invoker.workers import frames, notes
from tempos_invoker.workers.direct import Shared, compiled
from tempos_invoker.workers.frames import Answer
from tempos_invoker.workers.log import FunctionLog, Lines

#: Where a worker has its end of the socket pair.
FD, NOTES_FD = 3, 4
#: Messages read at one wake-up, and bytes of its log.
READS, LOG_BYTES = 64, 65536
#: Bytes of socket buffer asked for: a few of the longest messages.
BUFFER = 4 * frames.MESSAGE
#: Seconds that a worker may live which has closed its end.
DEAF = 1.0
#: The processes of all workers of this invoker that have not been waited for.
OURS: set[int] = set()
_DEFAULT = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)


class Owner(Protocol):
    """Who is told what a worker does."""

    def on_hello(self, worker: WorkerProcess, hello: Mapping[str, Any]) -> None:
        """It has said whether it can serve."""
        ...

    def on_answers(self, worker: WorkerProcess, answers: list[Answer]) -> None:
        """It has answered."""
        ...

    def on_over(self, worker: WorkerProcess, turn: int) -> None:
        """It has ended a turn at a socket."""
        ...

    def on_gone(self, worker: WorkerProcess, why: str) -> None:
        """Its process has ended: "exited with code 3", "was killed by SIGKILL"."""
        ...


class WorkerProcess:
    """A worker with this number. ``spec``: what it is told; see `worker/__main__.py`."""

    def __init__(self, number: int, spec: Mapping[str, Any], owner: Owner, log: FunctionLog) -> None:
        self.number = number
        self.index = int(spec["index"])
        self.version = str(spec["version"])
        #: What it notes (:mod:`.notes`), the last that was seen of it; the last call whose answer was read.
        self.notes: memoryview | None = None
        self.seen = self.answered = 0
        #: What it said at its start; None: nothing yet.
        self.hello: Mapping[str, Any] | None = None
        self.pid = 0
        self._spec = spec
        self._owner = owner
        self._log = log
        self._unsent: deque[bytes] = deque()
        #: The places that it was told of, by number.
        self.places: set[int] = set()
        # Calls that it was handed and has not answered, of those that are answered in any case.
        self._at_hand = 0
        self._gone = False
        self._shared: Shared | None = None

    def start(self) -> None:
        """Start the process; raises :class:`OSError`, and :class:`Unavailable` on another system."""
        self._loop = asyncio.get_running_loop()
        if not hasattr(os, "pidfd_open"):
            raise Unavailable("workers need Linux with pidfd_open (5.3)")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            for sock in (ours, theirs):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            ours.setblocking(False)
            self.notes, page = notes.make()
            undo.callback(os.close, page)
            self._pipe, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(os.close, self._pipe)
            try:
                os.set_blocking(write, True)
                self.pid = os.posix_spawn(
                    sys.executable,
                    [sys.executable, "-m", "tempos_invoker.worker", str(FD), str(NOTES_FD)],
                    self._environment(),
                    file_actions=[
                        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                        (os.POSIX_SPAWN_DUP2, write, 1),
                        (os.POSIX_SPAWN_DUP2, write, 2),
                        (os.POSIX_SPAWN_DUP2, theirs.fileno(), FD),
                        (os.POSIX_SPAWN_DUP2, page, NOTES_FD),
                    ],
                    setpgroup=0,
                    setsigmask=(),
                    setsigdef=_DEFAULT,
                )
            finally:
                os.close(write)
            OURS.add(self.pid)
            undo.pop_all()
        os.close(page)
        self._sock = ours
        self._lines = Lines(self._log, self.pid)
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(ours.fileno(), self._on_readable)
        self._loop.add_reader(self._pipe, self._on_output)
        self._loop.add_reader(self._pidfd, self._on_ended)
        self._is_reading = True
        self._send(json.dumps(self._spec).encode())

    def _environment(self) -> dict[str, str]:
        """That of the process: the function's, too, where it runs inside of it."""
        inside = self._spec["mode"] in INSIDE
        return {**os.environ, **(self._spec["env"] if inside else {})}

    @property
    def is_running(self) -> bool:
        """Whether it has been started and has not ended."""
        return bool(self.pid) and not self._gone

    def send(self, records: bytes, calls: int = 1) -> None:
        """Hand it a message with so many calls that are answered in any case."""
        self._at_hand += calls
        if self._unsent:
            self._unsent.append(records)
        else:
            self._send(records)

    def share(self) -> Shared | None:
        """The memory for datagrams that it reads itself, if that can be had."""
        if self._shared is None and self.is_running and (parts := compiled()) is not None:
            with contextlib.suppress(OSError):
                self._shared = Shared(*parts)
        return self._shared

    def lend(self, record: bytes, descriptors: list[int]) -> bool:
        """Send a record, and descriptors in a message behind it; False: neither was."""
        if self._unsent or not self.is_running:
            return False
        try:
            self._sock.send(record)
        except OSError:
            return False
        try:
            socket.send_fds(self._sock, [b"\0"], descriptors)
        except OSError:
            # There was no room, though it has little at hand; or it is gone.
            self.kill()
        return True

    def finish(self) -> None:
        """Let it come to its end: it has nothing at hand."""
        if self.is_running:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End it and all that it started, now; its end is told as ever."""
        if self.is_running:
            # The function may have had it leave its group.
            for end in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    end(self.pid, signal.SIGKILL)

    def read_now(self) -> None:
        """Take in what it has answered by now."""
        if self._is_reading:
            self._on_readable()

    # --- what the loop calls -----------------------------------------------------------------

    def _send(self, message: bytes) -> None:
        try:
            self._sock.send(message)
        except BlockingIOError:
            self._unsent.append(message)
            self._loop.add_writer(self._sock.fileno(), self._on_writable)
        except OSError:
            # It is gone, which is told when its end is.
            pass

    def _on_writable(self) -> None:
        while self._unsent:
            try:
                self._sock.send(self._unsent[0])
            except BlockingIOError:
                return
            except OSError:
                self._unsent.clear()
                break
            self._unsent.popleft()
        self._loop.remove_writer(self._sock.fileno())

    def _on_readable(self) -> None:
        answers: list[Answer] = []
        recv = self._sock.recv
        for _ in range(READS):
            try:
                message = recv(frames.MESSAGE)
            except BlockingIOError:
                break
            except ConnectionResetError:
                # Told once, before all else, of one that died with calls unread; what it answered follows.
                continue
            except OSError:
                message = b""
            if not message:
                self._stop_reading()
                # Most likely it is about to end.
                self._loop.call_later(DEAF, self.kill)
                break
            try:
                for answer in frames.answers(message):
                    if answer.condition == frames.HELLO:
                        self._on_hello(answer)
                    elif answer.condition == frames.OVER:
                        self._owner.on_over(self, answer.ticket)
                    else:
                        answers.append(answer)
                        self._at_hand -= 1
            except frames.FrameError as error:
                self._log.add(self.pid, f"tempos: this worker is killed: {error}".encode())
                self.kill()
                break
            if self._at_hand <= 0:
                self._at_hand = 0
                # To find out that there is no more would cost as much as to read this; if there is, such as
                # its end, the loop comes back at once.
                break
        if answers:
            self._owner.on_answers(self, answers)

    def _on_hello(self, answer: Answer) -> None:
        if self.hello is None:
            try:
                hello = json.loads(answer.output)
            except ValueError:
                hello = None
            if not isinstance(hello, dict):
                hello = {"ok": False, "text": "its first word cannot be understood"}
            self.hello = hello
            self._owner.on_hello(self, hello)

    def _stop_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._sock.fileno())

    def _on_output(self) -> None:
        try:
            data = os.read(self._pipe, LOG_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._lines.feed(data)
        else:
            self._loop.remove_reader(self._pipe)

    def _on_ended(self) -> None:
        if self._gone:
            return
        # While it is not waited for, its number is nobody else's; so is that of its group.
        self.kill()
        try:
            _, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            status = 0
        OURS.discard(self.pid)
        if self._is_reading:
            self._drain_answers()
        self._gone = True
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._stop_reading()
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._drain_output()
        self._owner.on_gone(self, _told(status))
        if self._shared is not None:
            self._shared.close()

    def _drain_answers(self) -> None:
        for _ in range(READS):
            if not self._is_reading:
                return
            self._on_readable()

    def _drain_output(self) -> None:
        """What it wrote last says why it ended."""
        for _ in range(READS):
            try:
                data = os.read(self._pipe, LOG_BYTES)
            except OSError:
                break
            if not data:
                break
            self._lines.feed(data)
        self._lines.end()
        self._loop.remove_reader(self._pipe)
        os.close(self._pipe)


def _told(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"was killed by {signal.Signals(number).name}"
        except ValueError:
            return f"was killed by signal {number}"
    return f"exited with code {os.WEXITSTATUS(status)}"
