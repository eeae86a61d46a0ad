"""Anonymous network namespaces that cannot outlive this process.

A namespace exists as long as its holder, a `cat` that reads a pipe from us. However we end, SIGKILL
included, the kernel closes the pipe, `cat` reads its end, and with the holder the namespace and every
interface in it are gone. Nothing is named, mounted or written down, so nothing can be left behind.

Work inside a namespace is done in a thread that has entered it (:meth:`Namespace.call`); the process
itself never changes its namespace.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tempos import Unavailable
from tempos.doctor.vrf import bound_to, situation

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
#: The holder says that it is inside before it waits for our end.
_HOLDER = ("unshare", "--net", "--", "sh", "-c", "echo held; exec cat >/dev/null")


class Namespace:
    """One network namespace with only a loopback interface. Raises :class:`Unavailable` without root."""

    def __init__(self, name: str) -> None:
        self.name = name
        if device := bound_to():
            # By the number of that interface, which in a namespace is another's or none's.
            raise Unavailable(f"no network namespace: {situation(device)}; run it outside of the VRF")
        try:
            # A session of its own: Ctrl-C on the terminal is ours to handle, in our order.
            self._holder = subprocess.Popen(
                _HOLDER,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise Unavailable(f"{error.filename} is not installed (package util-linux)") from error
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"held\n":
            _, complaint = self._holder.communicate()
            raise Unavailable(f"no network namespace: {complaint.decode(errors='replace').strip()}")
        #: The holder's process id: how netlink and `nsenter` name the namespace.
        self.pid = self._holder.pid
        self.path = Path(f"/proc/{self.pid}/ns/net")
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def call(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread inside the namespace and give back what it returns or raises.

        Sockets opened there stay in the namespace. Do not start processes in ``work``: the signal that
        binds a program's life to ours is bound to the thread that starts it.
        """
        outcome: list[T] = []
        failure: list[BaseException] = []

        def enter_and_work() -> None:
            try:
                _enter(self._fd)
                outcome.append(work())
            except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
                failure.append(error)

        thread = threading.Thread(target=enter_and_work, name=f"in-{self.name}", daemon=True)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def close(self) -> None:
        """Let the namespace go; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with suppress(BrokenPipeError):
            self._holder.communicate()

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _enter(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise Unavailable(f"cannot enter a network namespace: {os.strerror(number)}")
