"""What one would use in place of topics by port: programs that copy datagrams to collectors, or spread them.

Each is told to serve one :class:`Shape` at a port of its own. They are Debian's, installed or, as `make
peers` has it, fetched into a folder of the build where nothing of them is started; samplicator, which Debian
has not, is a binary that whoever measures has built. All get the receive buffer that tempos asks for.
"""

from __future__ import annotations

import os
import shutil
import signal
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tempos_bench.nodes import installed
from tempos_bench.nodes.node import Node, Program, ProgramFailed
from tempos_bench.nodes.patience import patience

#: Where `make peers` puts what it fetches.
FETCHED = Path(__file__).resolve().parents[3] / "build" / "peers"
#: Receive buffer, bytes: tempos' own default.
BUFFER = 8 << 20
#: SCHED_FIFO priority of whoever hands on, tempos, too: what else the machine does takes nobody's turn.
PRIORITY = 30
_SAMPLICATOR = "samplicator"
_READY, _LOOK = patience(15.0), 0.02


@dataclass(frozen=True, slots=True)
class Shape:
    """A copy to each of so many collectors (``copies``), or each datagram to one of them (``spread``).

    ``keep``: from the sender's address and port.
    """

    copies: int
    spread: int = 1
    keep: bool = False

    @property
    def collectors(self) -> int:
        return self.copies * self.spread

    def __str__(self) -> str:
        one = "1 copy" if self.copies == 1 else f"{self.copies} copies"
        return (one if self.spread == 1 else f"spread over {self.spread}") + (", kept" if self.keep else "")


@dataclass(frozen=True, slots=True)
class Task:
    """Where one listens, and to whom it sends: (address, port) each. ``folder``: for its files."""

    shape: Shape
    listen: tuple[str, int]
    collectors: Sequence[tuple[str, int]]
    folder: Path


@dataclass(frozen=True, slots=True)
class Director:
    """One of them. ``command`` writes what it needs into the task's folder and gives what starts it.

    ``byte`` and ``number``: how datagrams must begin for it to take them, the first byte and the number
    behind it. ``settings``: in words, for the report.
    """

    name: str
    program: str
    package: str
    settings: str
    command: Callable[[str, Task], Sequence[str]]
    serves: Callable[[Shape], bool]
    version: tuple[str, ...] = ("-V",)
    byte: int = 0
    number: int = 0x09000000
    #: What ends it at once.
    ended_by: signal.Signals = signal.SIGTERM

    def executable(self) -> str | None:
        """Where it is: the path it was given, among what is installed, or what was fetched."""
        if os.sep in self.program:
            found = self.program if os.access(self.program, os.X_OK) else None
        else:
            found = installed.executable(self.program)
        fetched = os.pathsep.join(str(FETCHED / "usr" / part) for part in ("sbin", "bin"))
        return found or shutil.which(self.program, path=fetched)

    def missing(self) -> str | None:
        """Why it cannot be measured, in one line; None if it can."""
        if self.executable() is not None:
            return None
        if self.name == _SAMPLICATOR:
            there = f"{self.program} is no program" if self.program else "no package of Debian's has it"
            return f"{self.name} left out: {there} (build it, and name it with --samplicator)"
        package = f"`make peers` fetches Debian's {self.package}"
        return f"{self.name} left out: {self.program} is not there ({package})"

    def start(self, node: Node, task: Task, cpu: int) -> Program:
        """Start it in ``node`` and wait until it listens; raises :class:`ProgramFailed` if it does not."""
        program = self.executable()
        assert program is not None, self.missing()
        task.folder.mkdir(parents=True)
        # Whoever does not end by SIGTERM is told of our end otherwise, too.
        told = ("setpriv", "--pdeathsig", self.ended_by.name.removeprefix("SIG"))
        prefix = ("chrt", "-f", str(PRIORITY), *told, "env", f"LD_LIBRARY_PATH={_libraries()}")
        started = node.start((*prefix, *self.command(program, task)), cpu=cpu)
        listens = f":{task.listen[1]:04X} "
        end = time.monotonic() + _READY
        while listens not in node.call(Path("/proc/thread-self/net/udp").read_text):
            if not started.running or time.monotonic() > end:
                started.stop()
                raise ProgramFailed(f"{self.name} does not listen at port {task.listen[1]}\n{started.output}")
            time.sleep(_LOOK)
        return started

    def end(self, program: Program) -> None:
        """End one that :meth:`start` gave."""
        program.signal(self.ended_by)
        program.wait(_READY)
        program.stop()

    def says(self) -> str:
        """Its version and settings, for the report."""
        program = self.executable()
        assert program is not None, self.missing()
        ask = ("env", f"LD_LIBRARY_PATH={_libraries()}", program, *self.version)
        version = f" {installed.version(ask)}" if self.version else ""
        return f"{self.name}{version}: {self.settings}"


def _libraries() -> Path:
    return FETCHED / "usr/lib" / (sysconfig.get_config_var("MULTIARCH") or ".")


def _module(folder: str) -> Path:
    """A folder of plug-ins, fetched or installed."""
    architecture = sysconfig.get_config_var("MULTIARCH") or "."
    places = [
        root / "usr/lib" / part / folder for root in (FETCHED, Path("/")) for part in (architecture, ".")
    ]
    return next((place for place in places if place.exists()), places[0])


def _address(end: tuple[str, int]) -> str:
    return f"{end[0]}:{end[1]}"


def _nfacctd(program: str, task: Task) -> Sequence[str]:
    setup, receivers = task.folder / "nfacctd.conf", task.folder / "receivers"
    ends = ",".join(map(_address, task.collectors))
    turns = " balance-alg=rr" if task.shape.spread > 1 else ""
    receivers.write_text(f"id=1 ip={ends}{turns}\n")
    setup.write_text(
        f"daemonize: false\nnfacctd_ip: {task.listen[0]}\nnfacctd_port: {task.listen[1]}\n"
        f"nfacctd_pipe_size: {BUFFER}\nplugins: tee[a]\ntee_receivers[a]: {receivers}\n"
        f"tee_transparent: {str(task.shape.keep).lower()}\nplugin_pipe_size[a]: {64 << 20}\n"
        f"tee_pipe_size[a]: {4 << 20}\n"
    )
    return (program, "-f", str(setup))


def _nginx(program: str, task: Task) -> Sequence[str]:
    setup = task.folder / "nginx.conf"
    servers = "".join(f"server {_address(end)} max_fails=0;" for end in task.collectors)
    kept = "proxy_bind $remote_addr:$remote_port transparent;" if task.shape.keep else ""
    setup.write_text(
        f"load_module {_module('nginx')}/modules/ngx_stream_module.so;\n"
        f"daemon off; user root; worker_processes 1; error_log stderr crit; pid {task.folder}/pid;\n"
        "events { worker_connections 65536; }\n"
        f"stream {{ upstream collectors {{ {servers} }}\n"
        f"server {{ listen {_address(task.listen)} udp rcvbuf={BUFFER}; proxy_pass collectors; "
        f"proxy_responses 0; {kept} }} }}\n"
    )
    return (program, "-p", str(task.folder), "-c", str(setup), "-e", "stderr")


def _rsyslog(program: str, task: Task) -> Sequence[str]:
    setup = task.folder / "rsyslog.conf"
    actions = "".join(
        f'action(type="omfwd" target="{ip}" port="{port}" protocol="udp" template="raw")\n'
        for ip, port in task.collectors
    )
    setup.write_text(
        f'global(workDirectory="{task.folder}" net.enableDNS="off" maxMessageSize="64k" '
        'parser.escapeControlCharactersOnReceive="off")\n'
        'main_queue(queue.size="100000")\n'
        'module(load="imudp")\n'
        'template(name="raw" type="string" string="%rawmsg%")\n'
        f'input(type="imudp" address="{task.listen[0]}" port="{task.listen[1]}" rcvbufSize="{BUFFER}" '
        f'ruleset="forward")\nruleset(name="forward") {{\n{actions}}}\n'
    )
    modules = str(_module("rsyslog"))
    return (program, "-n", "-x", "-i", str(task.folder / "pid"), "-f", str(setup), "-M", modules)


def _samplicator(program: str, task: Task) -> Sequence[str]:
    address, port = task.listen
    kept = ("-S",) if task.shape.keep else ()
    ends = (f"{ip}/{at}" for ip, at in task.collectors)
    return (program, *kept, "-s", address, "-p", str(port), "-b", str(BUFFER), *ends)


def directors(samplicator: str) -> tuple[Director, ...]:
    """All of them; ``samplicator``: its binary, none if that is empty."""
    return (
        Director(
            "nfacctd tee", "nfacctd", "pmacct",
            "a pool of all collectors (balance-alg rr to spread), tee_transparent to keep sources; pipes of "
            "8 MiB in, 64 MiB between its processes, 4 MiB out; it takes NetFlow alone, so datagrams begin "
            "with 00 09",
            # A process that waits for datagrams heeds SIGTERM with the next one.
            _nfacctd, lambda shape: True, ended_by=signal.SIGINT,
        ),
        Director(
            "nginx stream", "nginx", "nginx-light and libnginx-mod-stream",
            "one worker, proxy_responses 0, rcvbuf 8 MiB; it does not copy; sources are kept by proxy_bind "
            "$remote_addr:$remote_port transparent",
            _nginx, lambda shape: shape.copies == 1, version=("-v",),
        ),
        Director(
            "rsyslog", "rsyslogd", "rsyslog",
            "imudp to omfwd by UDP, template %rawmsg%, a queue of 100,000, rcvbufSize 8 MiB, DNS off; no "
            "package of Debian's keeps sources; datagrams begin with a letter",
            _rsyslog, lambda shape: shape.spread == 1 and not shape.keep, version=("-v",),
            byte=ord("A"), number=0,
        ),
        Director(
            _SAMPLICATOR, samplicator, "", "-b 8 MiB, -S to keep sources; it does not spread",
            _samplicator, lambda shape: shape.spread == 1, version=(),
        ),
    )  # fmt: skip
