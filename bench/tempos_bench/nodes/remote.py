"""A host as a node: its programs are started over ssh, its questions answered by a program there.

What a program needs besides its command line reaches it over standard input, through :mod:`.guard` on the
other side: texts, commands, signals, and our end, which is its end. Nothing is left on the hosts.
Interfaces, addresses and routes there are as the hosts' owner has set them; nothing of it is changed.
"""

from __future__ import annotations

import json
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tempos import TemposError, Unavailable
from tempos_bench.nodes.clocks import FarClocks
from tempos_bench.nodes.guard import PID_LINE
from tempos_bench.nodes.node import PYTHON, Node, Program
from tempos_bench.nodes.topology import Topology
from tempos_bench.runs.rounds import cores

T = TypeVar("T")

_SIGNALLED = 128
#: Seconds in which a host must have told the number of a process that it started.
_PID_LIMIT = 20.0
_TRIPS = 5


@dataclass(frozen=True, slots=True)
class Host:
    """A host: how ssh names it, its Python with tempos in it, its addresses and interfaces on the links.

    ``interfaces``: empty where the host is to be asked which of them have the addresses. ``cpus``: what
    the two cores that scenarios pin to are there; empty: nothing is pinned.
    """

    name: str
    ssh: str
    python: str
    addresses: tuple[str, ...]
    interfaces: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()


class RemoteProgram(Program):
    """A program on a host, held through the guard that runs it there."""

    _number: int | None = None

    def __init__(self, name: str, command: Sequence[str], text: str | None) -> None:
        super().__init__(name, command, cpu=None, talk=True, fds=())
        if text is not None:
            super()._send(json.dumps(text))

    @property
    def pid(self) -> int:
        """The process id on its host."""
        with self._changed:
            self._changed.wait_for(lambda: self._number is not None or not self._open, _PID_LIMIT)
        if self._number is None:
            raise self._failure("was not started: its host told no process id")
        return self._number

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self.stop()

    def wait(self, limit: float) -> int:
        code = super().wait(limit)
        return _SIGNALLED - code if _SIGNALLED < code < _SIGNALLED + signal.NSIG else code

    def _heard(self, line: str, into: list[str]) -> None:
        if line.startswith(PID_LINE):
            self._number = int(line.removeprefix(PID_LINE))
        else:
            super()._heard(line, into)

    def _send(self, line: str) -> None:
        super()._send(f"={line}")

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            try:
                super()._send(f"!{int(number)}")
            except TemposError:
                # It ended between the question and the command, as it was to.
                return


class RemoteNode(Node):
    """A host as a node."""

    def __init__(self, host: Host, runner: Sequence[str]) -> None:
        super().__init__(host.name, None, host.addresses, host.interfaces)
        self._host = host
        self._runner = tuple(runner)
        self._asking: Program | None = None

    def inquire(self, question: str, **given: Any) -> Any:
        if self._asking is None or not self._asking.running:
            self._asking = self.role("nodes.ask", ready=True, talk=True)
        answer = self._asking.ask({"ask": question, "given": given})
        if "error" in answer:
            raise TemposError(f"{self.name}: {answer['error']}")
        return answer["answer"]

    def core(self, cpu: int) -> str:
        pinned = self._pinned(cpu)
        return f"core {pinned[1]} of {self.name}" if pinned else f"any core of {self.name}"

    def trip(self) -> float:
        def once() -> float:
            began = time.monotonic()
            self.inquire("clock")
            return time.monotonic() - began

        return min(once() for _ in range(_TRIPS))

    def soon(self, seconds: float) -> int:
        return super().soon(seconds + 3 * self.trip())

    def call(self, work: Callable[[], T]) -> T:
        raise Unavailable(f"{self.name} is another host: this needs a node inside this machine")

    def line(self, command: Sequence[str], cpu: int | None, text: str | None) -> str:
        """The line of shell that runs ``command`` there."""
        theirs = [self._host.python if part == PYTHON else part for part in command]
        options = [*self._pinned(cpu), *(("--text",) if text is not None else ())]
        return shlex.join([self._host.python, "-m", "tempos_bench.nodes.guard", *options, "--", *theirs])

    def _begin(
        self, name: str, command: Sequence[str], cpu: int | None, talk: bool, text: str | None
    ) -> Program:
        line = self.line(command, cpu, text)
        bound = ("setpriv", "--pdeathsig", "TERM")
        return RemoteProgram(name, (*bound, *self._runner, self._host.ssh, line), text)

    def _pinned(self, cpu: int | None) -> tuple[str, ...]:
        if cpu is None or not self._host.cpus:
            return ()
        # Scenarios name cores of this machine: the first or the other one.
        return ("--cpu", str(self._host.cpus[(cpu != cores()[0]) % len(self._host.cpus)]))


@contextmanager
def topology_of(nodes: Sequence[Node], shape: str, clock_offset: float) -> Iterator[Topology]:
    """A topology of publisher, broker and subscriber on hosts; their programs end with it.

    ``clock_offset``: seconds that clocks may be apart for their times to be compared.
    """
    with ExitStack() as stack:
        for node in nodes:
            stack.callback(node.close)
        for node in nodes:
            if not node.interfaces:
                node.interfaces = tuple(node.inquire("interface of", address=a) for a in node.addresses)
        publisher, broker, subscriber = nodes
        clocks = FarClocks(publisher, broker, subscriber, clock_offset)
        stack.callback(clocks.tell)
        yield Topology(shape, publisher, broker, subscriber, machines=tuple(nodes), clocks=clocks)
