"""Brokers that begin with all their modules imported: forks of a process that has done nothing else.

To import is most of what a start takes, and on an emulated machine half a minute. A fork runs what `python -m
tempos_broker` runs, in a namespace and with streams of its own. This file is that process's program, too.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from tempos_bench.nodes import bytecode
from tempos_bench.nodes.node import PYTHON, Node, Program, ProgramFailed
from tempos_bench.nodes.patience import patience

#: What a node is told to start that can begin so.
BROKER = (PYTHON, "-m", "tempos_broker")
#: All that a broker imports as it starts.
_MODULES = (
    "tempos_broker.__main__", "tempos_broker.api.application", "tempos_broker.api.feed",
    "tempos_broker.slowpath.batched", "tempos_daemon.http_server", "tempos_fastpath.network.neighbours",
    "tempos_fastpath.starting", "tempos_fastpath.survival.handles", "tempos_fastpath.survival.orphans",
    "tempos_fastpath.survival.remains", "uvicorn.lifespan.off", "uvloop",
)  # fmt: skip
_LIMIT = patience(60.0)
_PR_SET_PDEATHSIG = 1
_CLONE_NEWNET = 0x40000000
#: A request holds less, and no more descriptors.
_REQUEST, _DESCRIPTORS = 1 << 16, 8


class WarmNode(Node):
    """A node whose brokers begin so, unless another command starts them."""

    def _program(
        self, name: str, command: Sequence[str], cpu: int | None, talk: bool, fds: Sequence[int]
    ) -> Program:
        if tuple(command[: len(BROKER)]) != BROKER or talk or self._namespace is None:
            return super()._program(name, command, cpu, talk, fds)
        return _WarmProgram(name, (str(self._namespace.path), *command), cpu=cpu, talk=talk, fds=fds)


class _WarmProgram(Program):
    def _launch(self, command: Sequence[str], talk: bool, fds: Sequence[int]) -> subprocess.Popen[str]:
        namespace, _, _, module, *arguments = command
        process = _origin().fork({"namespace": namespace, "module": module, "arguments": arguments}, fds)
        return cast("subprocess.Popen[str]", process)


class _Forked:
    """A process that is not ours to wait for, with what a program is asked as a Popen."""

    stdin = None

    def __init__(self, origin: _Origin, pid: int, out: int, err: int) -> None:
        self.pid, self.returncode = pid, cast("int | None", None)
        self._origin, self._handle = origin, os.pidfd_open(pid)
        self.stdout, self.stderr = (os.fdopen(each, errors="replace") for each in (out, err))

    def poll(self) -> int | None:
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            ended = select.poll()
            ended.register(self._handle, select.POLLIN)
            if not ended.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("a warm broker", cast("float", timeout))
            self.returncode = self._origin.code(self.pid)
            os.close(self._handle)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Origin:
    """The process that forks; it ends with us, and with it they end."""

    def __init__(self) -> None:
        self._line, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.settimeout(_LIMIT)
        self._one_at_a_time = threading.Lock()
        with its:
            command = ("setpriv", "--pdeathsig", "TERM", PYTHON, __file__, str(its.fileno()))
            # Its own streams are ours, for what goes wrong there.
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(its.fileno(),),
                             env=bytecode.environment(), start_new_session=True)  # fmt: skip

        atexit.register(self.close)

    def close(self) -> None:
        self._line.close()
        self._process.wait()

    def fork(self, order: dict[str, Any], fds: Sequence[int]) -> _Forked:
        (out, its_out), (err, its_err) = os.pipe(), os.pipe()
        try:
            # Where it finds what is passed on, only it knows.
            named = {f"/proc/self/fd/{fd}": place for place, fd in enumerate(fds)}
            pid = self._ask({**order, "named": named}, (its_out, its_err, *fds))
        finally:
            os.close(its_out)
            os.close(its_err)
        return _Forked(self, pid, out, err)

    def code(self, pid: int) -> int:
        """The exit code of one that has ended; once."""
        return self._ask({"ended": pid}, ())

    def _ask(self, order: dict[str, Any], fds: Sequence[int]) -> int:
        with self._one_at_a_time:
            socket.send_fds(self._line, [json.dumps(order).encode()], fds)
            answer = self._line.recv(_REQUEST)
        if not answer:
            raise ProgramFailed("what forks brokers has ended")
        return int(answer)


@functools.cache
def _origin() -> _Origin:
    return _Origin()


# In the process that forks


def _serve(line: socket.socket) -> None:
    for module in _MODULES:
        importlib.import_module(module)
    while True:
        said, fds, _, _ = socket.recv_fds(line, _REQUEST, _DESCRIPTORS)
        if not said:
            return
        order = json.loads(said)
        if (ended := order.get("ended")) is not None:
            answer = os.waitstatus_to_exitcode(os.waitpid(ended, 0)[1])
        else:
            ours = os.getpid()
            answer = os.fork()
            if not answer:
                line.close()
                _become(order, fds, ours)
            for fd in fds:
                os.close(fd)
        line.send(str(answer).encode())


def _become(order: dict[str, Any], fds: Sequence[int], parent: int) -> None:
    """Be what the order says, to the end."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.setpgid(0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
    out, err, *passed = fds
    for stream, number in ((out, 1), (err, 2)):
        os.dup2(stream, number)
        os.close(stream)
    with Path(order["namespace"]).open() as namespace:
        if libc.setns(namespace.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    paths = {path: f"/proc/self/fd/{passed[place]}" for path, place in order["named"].items()}
    sys.argv = [order["module"], *(paths.get(each, each) for each in order["arguments"])]
    # To be run it is read once more, as what is called main.
    del sys.modules[f"{order['module']}.__main__"]
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
