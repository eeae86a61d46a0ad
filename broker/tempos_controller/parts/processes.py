"""Processes of daemons: started in a session of their own, found again by what they were started with, ended.

They outlive the Controller: nothing ties them to it, neither its terminal nor its death. Found again they are
by command line and folder; the folder is one that only who runs the Controller can be in, so nobody else's
process is taken for it. Started by posix_spawn: nothing stands still for it, however large the Controller is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

#: The command `tempos` without anything that its folder might hold.
_ENTRY = (
    "import sys; sys.path[:] = filter(None, sys.path); from tempos_daemon.entry import main; sys.exit(main())"
)
#: What changes the folder before a program is there; posix_spawn itself cannot.
_ENV = "/usr/bin/env"


def command(*words: str) -> tuple[str, ...]:
    """The command line of ``tempos`` with these words."""
    return (sys.executable, "-c", _ENTRY, *words)


def spawn(argv: Sequence[str], folder: Path, log: Path) -> int:
    """Start a process in ``folder``, with a session of its own, that writes to ``log``; gives its pid."""
    writing = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        _ENV,
        [_ENV, "-C", str(folder), *argv],
        # What it is to tell a service manager is told by the Controller.
        {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), writing, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGPIPE),
    )


def find(argv: Sequence[str], folder: Path) -> int | None:
    """The process that was started so, if there is one."""
    wanted = "\0".join((*argv[1:], "")).encode()
    where = str(folder)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            _, _, arguments = (process / "cmdline").read_bytes().partition(b"\0")
            if arguments == wanted and str((process / "cwd").readlink()) == where and _runs(process):
                return int(process.name)
    return None


def _runs(process: Path) -> bool:
    return (process / "stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")


class Process:
    """One that runs. ``ended`` is done when it has: why, as far as it can be known."""

    def __init__(self, pid: int) -> None:
        """Raises :class:`ProcessLookupError` if it is gone already."""
        self.pid = pid
        self._loop = asyncio.get_running_loop()
        self._fd = os.pidfd_open(pid)
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self._loop.add_reader(self._fd, self._on_end)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; who has ended gets none."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    def forget(self) -> None:
        """Watch it no longer; it goes on."""
        if not self.ended.done():
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self.ended.cancel()

    def _on_end(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        if not self.ended.done():
            self.ended.set_result(self._why())

    def _why(self) -> str:
        try:
            _, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            # An earlier Controller's child.
            return "ended"
        code = os.waitstatus_to_exitcode(status)
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
