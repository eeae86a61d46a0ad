"""``python -m tempos_invoker.worker FD [NOTES]``: one worker. FD is its end of the socket pair.

NOTES is the page of memory in which a function in Python notes what it does (:mod:`..workers.notes`).

The first message is the specification (JSON, :data:`KEYS`); the answer is hello (JSON: ``ok``, ``text``,
``scheduling`` as it was really got, ``version``, ``pid``, ``notes``, ``reads``). Where that is no, it says
why, and the worker ends. Then it serves until the other end closes. A worker never outlives the process that
started it; signals that are sent to all processes of an invoker are the invoker's business.

A way to run functions is a module here with a class, named in :data:`MODES`: it is made with the
specification (and raises :class:`~tempos_invoker.worker.unfit.Unfit`), ``warm(body)`` calls it once,
``serve(sock)`` answers calls until the other end closes.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import importlib
import json
import os
import pwd
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from tempos._output import make_whole
from tempos.errors import one_line
from tempos_invoker.modes import INSIDE
from tempos_invoker.worker import scheduling, undisturbed
from tempos_invoker.worker.incoming import can_read
from tempos_invoker.worker.unfit import Unfit
from tempos_invoker.workers import frames, notes
from tempos_invoker.workers.frames import Answer

#: What a specification holds. ``function``: its name; ``class``: SQ or BQ; ``index``: of this worker among
#: those of its pool; ``code``: path of the code file or "", ``folder``: where its neighbours are, or "";
#: ``warm``: a body in base64, or null; ``memory`` and ``output``: bytes, 0 for no limit of its own;
#: ``scheduling``: what :mod:`tempos_invoker.worker.scheduling` is asked for; ``cache``: a folder for what
#: was compiled, or ""; the rest as in the deployment.
KEYS = (
    "function", "class", "index", "mode", "code", "folder", "entry", "args", "env", "cwd", "user",
    "timeout", "load", "memory", "output", "ahead", "processes", "grants", "warm", "version", "scheduling",
    "cache",
)  # fmt: skip

#: Module and class for each mode.
MODES = {
    "python": ("tempos_invoker.worker.python", "PythonFunction"),
    "dlf": ("tempos_invoker.worker.dlf", "LibraryFunction"),
    "wasm": ("tempos_invoker.worker.wasm", "WasmFunction"),
    "spawn": ("tempos_invoker.worker.spawn", "SpawnFunction"),
}

_PR_SET_PDEATHSIG = 1
UNFIT = 3


class Function(Protocol):
    """A function that is loaded."""

    def warm(self, body: bytes) -> None:
        """Call it once for nothing; raises :class:`Unfit` if that fails."""
        ...

    def serve(self, sock: socket.socket) -> None:
        """Answer calls until the other end closes."""
        ...


@runtime_checkable
class Noting(Protocol):
    """A function that notes what it does in a page of memory, if it is given one."""

    notes: memoryview | None


def main(arguments: list[str]) -> int:
    """Run a worker until it is not needed any more."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    undisturbed.leave_to_the_invoker()
    make_whole()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with socket.socket(fileno=int(arguments[0])) as sock:
        sock.setblocking(True)
        os.set_inheritable(sock.fileno(), False)
        spec = json.loads(sock.recv(frames.MESSAGE))
        try:
            # Another user may not be allowed to read this installation.
            make = _maker(spec["mode"])
            got = _settle(spec, parent)
            function = make(spec)
            noting = _have_notes(function, arguments[1:])
            if spec.get("warm") is not None:
                function.warm(base64.b64decode(spec["warm"]))
        except Unfit as error:
            _say(sock, ok=False, text=one_line(error))
            return UNFIT
        _say(
            sock,
            ok=True,
            text="",
            scheduling=got,
            version=spec.get("version", ""),
            pid=os.getpid(),
            notes=noting,
            reads=noting and can_read(),
        )
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # Whoever started it is gone.
            function.serve(sock)
    return 0


def _have_notes(function: Function, arguments: list[str]) -> bool:
    """Give the page of memory to a function that takes it; whether it does."""
    if not arguments:
        return False
    descriptor = int(arguments[0])
    try:
        if not isinstance(function, Noting):
            return False
        function.notes = notes.take(descriptor)
        return True
    finally:
        # What it starts is not to have it.
        os.close(descriptor)


def _say(sock: socket.socket, **hello: Any) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sock.send(Answer(0, frames.HELLO, json.dumps(hello).encode()).encode())


def _settle(spec: Mapping[str, Any], parent: int) -> Mapping[str, Any]:
    """Become what the specification says; gives the scheduling that was got. Raises :class:`Unfit`."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    got = scheduling.apply(spec.get("scheduling") or {})
    if spec["mode"] in INSIDE:
        _limit(int(spec.get("memory") or 0))
        _become(spec.get("user") or "")
        if spec.get("cwd"):
            try:
                os.chdir(spec["cwd"])
            except OSError as error:
                raise Unfit(f"the folder {spec['cwd']} cannot be worked in: {error.strerror}") from error
    # After that, for another user's process forgets it.
    if prctl is not None:
        # The kernel kills this process when the one that started it is gone, whatever it does just then.
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
    return got


def _limit(memory: int) -> None:
    if memory:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        except (OSError, ValueError) as error:
            raise Unfit(f"the memory cannot be limited to {memory} bytes: {error}") from error


def _become(user: str) -> None:
    if not user:
        return
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise Unfit(f"there is no user {user!r} on this machine") from None
    if entry.pw_uid == os.geteuid() == os.getuid():
        return
    try:
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    except OSError as error:
        raise Unfit(f"cannot become the user {user!r}: {error.strerror}; only root can") from error


def _maker(mode: str) -> Callable[[dict[str, Any]], Function]:
    module, name = MODES[mode]
    try:
        made: Callable[[dict[str, Any]], Function] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise Unfit(f"the mode {mode} is not to be had here: {one_line(error)}") from error
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
