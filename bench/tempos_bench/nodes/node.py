"""Runs programs in a node, watches their output, and ends them.

A node is a network namespace, or this machine itself where there is none (:func:`local`). Every program
gets SIGTERM from the kernel when we die, and is waited for by readiness, never by time: a line of its
output, or its exit, each with a limit after which the error shows what the program said.

Programs must be started from a thread that lives as long as they shall: the main one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, TypeVar

from tempos import TemposError
from tempos_bench.nodes import ask, bytecode, leftovers
from tempos_bench.nodes.namespace import Namespace
from tempos_bench.nodes.patience import patience

T = TypeVar("T")

PYTHON = sys.executable
#: What starts a program.
start_process: Callable[..., subprocess.Popen[str]] = subprocess.Popen
#: Stands in a command for a file that holds the text given beside it.
TEXT_FILE = "{text}"
_STOP_LIMIT = 15.0
_CLEAN_UP_LIMIT = 20.0
_NS = 1_000_000_000
#: A process group of its own keeps Ctrl-C from a program; a session would, too, but the kernel gives each
#: session an equal share of a core (sched_autogroup), so that even a SCHED_IDLE loop took half of it.
_APART: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}


@contextmanager
def text_file(text: str) -> Iterator[int]:
    """A file in memory with ``text``, as a descriptor to hand down: nothing is left on disk."""
    memory = os.memfd_create("text")
    try:
        os.write(memory, text.encode())
        # Of its own accord everybody might write it, which a broker warns of.
        os.fchmod(memory, 0o644)
        yield memory
    finally:
        os.close(memory)


class ProgramFailed(TemposError):
    """A program in a node did not do what it was started for; the text carries its output."""


class Program:
    """A running program. Its output is collected line by line as it comes."""

    def __init__(
        self, name: str, command: Sequence[str], *, cpu: int | None, talk: bool, fds: Sequence[int]
    ) -> None:
        self.name = name
        self._process = start_process(
            command,
            stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=bytecode.environment(),
            **_APART,
            pass_fds=fds,
            text=True,
            errors="replace",
        )
        if cpu is not None:
            # Before the program has a second thread, so that all of them inherit it.
            os.sched_setaffinity(self._process.pid, {cpu})
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._complaints: list[str] = []
        self._read = 0
        self._open = 2
        for stream, into in ((self._process.stdout, self._lines), (self._process.stderr, self._complaints)):
            assert stream is not None
            threading.Thread(target=self._collect, args=(stream, into), daemon=True).start()

    @property
    def pid(self) -> int:
        """The process id; entering a node replaces the process and keeps it."""
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """All of standard output, then all of standard error, so far."""
        with self._changed:
            return "\n".join((*self._lines, *self._complaints))

    def wait_line(self, start: str = "", limit: float = 30.0) -> str:
        """The next unread line of standard output that starts so; raises :class:`ProgramFailed`."""
        end = time.monotonic() + patience(limit)
        with self._changed:
            while True:
                while self._read < len(self._lines):
                    line = self._lines[self._read]
                    self._read += 1
                    if line.startswith(start):
                        return line
                if not self._open:
                    break
                if not self._changed.wait(end - time.monotonic()):
                    break
        what = f"a line starting with {start!r}" if start else "an answer"
        ended = "ended without" if not self._open else f"did not print within {limit:g} s"
        raise self._failure(f"{ended} {what}")

    def ask(self, message: object, limit: float = 30.0) -> Any:
        """Send a JSON line, give back the JSON line that answers it. Needs ``talk=True`` at the start."""
        self.tell(message)
        return self.answer(limit)

    def tell(self, message: object) -> None:
        """Send a JSON line; :meth:`answer` gives what is answered. Needs ``talk=True`` at the start."""
        self._send(json.dumps(message))

    def answer(self, limit: float = 30.0) -> Any:
        """The next line of output as JSON; raises :class:`ProgramFailed`."""
        return self._parse(self.wait_line(limit=limit))

    def wait(self, limit: float) -> int:
        """Wait for the end and return the exit code; negative is a signal."""
        try:
            code = self._process.wait(patience(limit))
        except subprocess.TimeoutExpired as error:
            raise self._failure(f"did not end within {limit:g} s") from error
        with self._changed:
            self._changed.wait_for(lambda: not self._open, _STOP_LIMIT)
        return code

    def result(self, limit: float) -> Any:
        """Wait for the end and parse the last line of output as JSON; the exit code must be 0."""
        code = self.wait(limit)
        if code or not self._lines:
            raise self._failure(f"ended with exit code {code}")
        return self._parse(self._lines[-1])

    def terminate(self) -> None:
        """Ask the program to end, without waiting."""
        if self.running:
            self._let_run()
            self.send(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def signal(self, number: signal.Signals) -> None:
        """Send it, without waiting; to a program that has ended: no effect."""
        self._process.send_signal(number)

    def stop(self, limit: float = _STOP_LIMIT) -> int:
        """End it: SIGTERM, and SIGKILL when that does not help within ``limit`` seconds."""
        self.terminate()
        try:
            self._process.wait(patience(limit))
        except subprocess.TimeoutExpired:
            self._process.kill()
        code = self.wait(_STOP_LIMIT)
        if self._process.stdin is not None:
            self._process.stdin.close()
        return code

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        self._let_run()
        self._process.kill()
        self.stop()

    def _let_run(self) -> None:
        """What runs only when nothing else wants the core could not even end on one that is busy."""
        with suppress(OSError):
            if os.sched_getscheduler(self._process.pid) == os.SCHED_IDLE:
                os.sched_setscheduler(self._process.pid, os.SCHED_OTHER, os.sched_param(0))

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._failure("ended and takes no more commands") from error

    def _collect(self, stream: IO[str], into: list[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self._heard(line.rstrip("\n"), into)
                    self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def _heard(self, line: str, into: list[str]) -> None:
        """One line of output; called under the lock."""
        into.append(line)

    def _parse(self, line: str) -> Any:
        try:
            return json.loads(line)
        except ValueError as error:
            raise self._failure(f"printed no JSON but {line!r}") from error

    def _failure(self, what: str) -> ProgramFailed:
        return ProgramFailed(f"{self.name} {what}\n{self.output}".rstrip())


class Node:
    """A place to run programs in. ``addresses`` are its IPv4 addresses, the first its main one."""

    def __init__(
        self,
        name: str,
        namespace: Namespace | None,
        addresses: tuple[str, ...],
        interfaces: tuple[str, ...],
    ) -> None:
        self.name = name
        self.addresses = addresses
        self.interfaces = interfaces
        self._namespace = namespace
        self._programs: list[Program] = []
        self._clean_ups: list[tuple[Program, tuple[str, ...]]] = []

    @property
    def address(self) -> str:
        return self.addresses[0]

    def start(
        self,
        command: Sequence[str],
        *,
        ready: str | None = None,
        limit: float = 60.0,
        cpu: int | None = None,
        talk: bool = False,
        text: str | None = None,
        clean_up: tuple[str, ...] = (),
    ) -> Program:
        """Start ``command`` here; with ``ready``, return when it has printed a line that starts so.

        ``cpu`` pins it to one core, ``talk`` opens its standard input, ``text`` is what the program finds in
        the file that its command names as :data:`TEXT_FILE`. ``clean_up``: the command that removes what it
        leaves if it is killed.
        """
        if clean_up:
            leftovers.sweep()
        program = self._begin(self._called(command), command, cpu, talk, text)
        self._programs.append(program)
        if clean_up:
            self._clean_ups.append((program, clean_up))
        if ready is not None:
            program.wait_line(ready, limit)
        return program

    def role(
        self, module: str, *arguments: object, ready: bool = False, cpu: int | None = None, talk: bool = False
    ) -> Program:
        """Start one of this package's own programs; ``ready`` for those that say so.

        ``module`` is one of the folder `programs`, or is named from the package on (`peers.raw`).
        """
        home = "tempos_bench" if "." in module else "tempos_bench.programs"
        command = (PYTHON, "-m", f"{home}.{module}", *map(str, arguments))
        return self.start(command, ready="ready" if ready else None, cpu=cpu, talk=talk)

    def inquire(self, question: str, **given: Any) -> Any:
        """Ask this node one of :data:`tempos_bench.nodes.ask.QUESTIONS`; raises :class:`TemposError`."""
        return self.call(lambda: ask.answer(question, given))

    def request(self, method: str, path: str, body: object = None) -> Any:
        """One request to the control API of a broker that runs here; raises :class:`TemposError`."""
        return self.inquire("request", method=method, path=path, body=body)

    def facts(self, interface: str) -> dict[str, Any]:
        """One interface of this node as it is really set."""
        found: dict[str, Any] = self.inquire("interface", name=interface)
        return found

    def core(self, cpu: int) -> str:
        """Where a program that is pinned to ``cpu`` runs, in words."""
        return f"core {cpu}"

    def trip(self) -> float:
        """Seconds that a question takes to get here and its answer back; 0 for a node of this machine."""
        return 0.0

    def soon(self, seconds: float) -> int:
        """So many seconds from now by this node's own clock (CLOCK_REALTIME, ns).

        Programs here that are told at once to begin then have all heard of it before.
        """
        return int(self.inquire("clock")) + int(seconds * _NS)

    @contextmanager
    def folder(self) -> Iterator[str]:
        """The path of an empty folder on this node, which is removed at the end."""
        program = self.role("folder", talk=True)
        try:
            yield program.answer()["folder"]
        finally:
            program.stop()

    def call(self, work: Callable[[], T]) -> T:
        """Run ``work`` in this process, but with this node's network (see :meth:`Namespace.call`)."""
        return work() if self._namespace is None else self._namespace.call(work)

    def close(self) -> None:
        """End every program of this node, the last one first, and remove what those left that were killed."""
        for program in reversed(self._programs):
            program.terminate()
        for program in reversed(self._programs):
            program.stop()
        self._programs.clear()
        needed = dict.fromkeys(command for program, command in self._clean_ups if program.stop())
        self._clean_ups.clear()
        for command in needed:
            program = self._begin(self._called(command), command, None, False, None)
            program.wait(_CLEAN_UP_LIMIT)
            program.stop()

    def _called(self, command: Sequence[str]) -> str:
        return f"{' '.join(command[1:4])} in {self.name}"

    def _begin(
        self, name: str, command: Sequence[str], cpu: int | None, talk: bool, text: str | None
    ) -> Program:
        if text is None:
            return Program(name, self._entered(command), cpu=cpu, talk=talk, fds=())
        with text_file(text) as number:
            named = [part.replace(TEXT_FILE, f"/proc/self/fd/{number}") for part in command]
            return Program(name, self._entered(named), cpu=cpu, talk=talk, fds=(number,))

    def _entered(self, command: Sequence[str]) -> tuple[str, ...]:
        # The binding to our life comes first: if we are gone before it holds, so is the namespace,
        # and the step after it fails.
        bound = ("setpriv", "--pdeathsig", "TERM")
        if self._namespace is None:
            return (*bound, *command)
        return (*bound, "nsenter", f"--net={self._namespace.path}", *command)


def local(address: str = "127.0.0.1") -> Node:
    """The machine itself as a node, reached over loopback; needs no privilege."""
    return Node("this machine", None, (address,), ("lo",))
