"""The comparisons that the source of tcp-latency and net-pagefault makes: beside `ping`, and beside `top`.

Between two nodes: how long a TCP connect takes as tcp-latency tells it, as the program that connects measures
it, and how long an ICMP echo takes. Then the other node answers no ping, as the source met one: connects are
told as before. And the page faults of a process by net-pagefault, and by the field that `top` and `ps` show.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from tempos import Unavailable
from tempos_bench.measure.stats import ratios, summarize
from tempos_bench.nodes.topology import Topology, build
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import interleave
from tempos_bench.runs.run import Run
from tempos_bench.watching.tool import Tool

_PORT, _MS = 4711, 1e3
_SILENT = Path("/proc/sys/net/ipv4/icmp_echo_ignore_all")
_TOUCHING = "import mmap, sys; m = mmap.mmap(-1, int(sys.argv[1]) * 4096, flags=34)\n" \
    "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'here', ('127.0.0.1', 9))\n" \
    "for at in range(0, len(m), 4096): m[at] = 1\n" \
    "print('done', flush=True); sys.stdin.read()"  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parameters:
    """``connects`` and pings a round; ``pages`` are touched for the first time."""

    rounds: int
    connects: int
    pages: int


@dataclass(frozen=True, slots=True)
class Connected:
    """Means, microseconds: as the tool tells, as the program that connects measured. ``told``: how many."""

    tool: float
    program: float
    told: int


@dataclass(frozen=True, slots=True)
class Pinged:
    """The mean, microseconds, and how many came back."""

    mean: float
    back: int


@dataclass(frozen=True, slots=True)
class Faults:
    """Minor page faults of one process by both."""

    tool: int
    top: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    if shutil.which("ps") is None:
        raise Unavailable("ps is not installed (package procps)")
    with ExitStack() as stack:
        topology = stack.enter_context(build("straight"))
        server = topology.subscriber.call(lambda: socket.create_server(("", _PORT), backlog=p.connects))
        stack.callback(server.close)
        variants: dict[str, Callable[[], object]] = {
            "ping": partial(_ping, topology, p),
            "connects": partial(_connect, topology, server, p),
            "no answer to ping: ping": partial(_silent, topology, partial(_ping, topology, p)),
            "no answer to ping: connects": partial(_silent, topology, partial(_connect, topology, server, p)),
            "faults": partial(_faults, p),
        }
        found = interleave(p.rounds, variants, progress)
    pings: list[Pinged] = found["ping"]  # type: ignore[assignment]
    connects: list[Connected] = found["connects"]  # type: ignore[assignment]
    no_pings: list[Pinged] = found["no answer to ping: ping"]  # type: ignore[assignment]
    still: list[Connected] = found["no answer to ping: connects"]  # type: ignore[assignment]
    faults: list[Faults] = found["faults"]  # type: ignore[assignment]
    tool = [each.tool for each in connects]
    return [
        median("ping", summarize([each.mean for each in pings]), "us", source="50.9 to 56.0 ms (amazon.it)"),
        median("tcp-latency", summarize(tool), "us", source="51.6 to 54.7 ms"),
        median("connect as the program measures it", summarize([each.program for each in connects]), "us"),
        median(
            "tcp-latency beside ping", ratios(tool, [each.mean for each in pings]), "ratio", Better.NEITHER
        ),
        median(
            "tcp-latency beside the program's own clock", ratios(tool, [c.program for c in connects]), "ratio"
        ),
        Figure("connects not told", _untold(p, connects), "connects", Better.LOWER),
        Figure(
            "no answer to ping: pings back", sum(each.back for each in no_pings), "pings", source="0 of 2"
        ),
        Figure("no answer to ping: connects not told", _untold(p, still), "connects", Better.LOWER),
        Figure("faults by net-pagefault, of the last round", faults[-1].tool, "faults", source="425 (ssh)"),
        Figure("faults by top, of the last round", faults[-1].top, "faults", source="330 (ssh)"),
        Figure("faults: most that both differ", max(abs(each.tool - each.top) for each in faults), "faults"),
    ]


def _untold(p: Parameters, found: list[Connected]) -> int:
    return sum(p.connects - each.told for each in found)


def _silent(topology: Topology, measure: Callable[[], object]) -> object:
    """Meanwhile the other node answers no ping."""
    topology.subscriber.call(lambda: _SILENT.write_text("1"))
    try:
        return measure()
    finally:
        topology.subscriber.call(lambda: _SILENT.write_text("0"))


def _ping(topology: Topology, p: Parameters) -> Pinged:
    got = topology.publisher.role(
        "icmp", "--to", topology.subscriber.address, "--count", p.connects, "--warm-up", 1, "--timeout", 0.01
    ).result(p.connects * 0.02 + 60)
    times = got["samples_ns"]
    return Pinged(fmean(times) / 1e3 if times else float("nan"), len(times))


def _connect(topology: Topology, server: socket.socket, p: Parameters) -> Connected:
    times: dict[int, int] = {}

    def connect() -> None:
        for _ in range(p.connects):
            with socket.socket() as client:
                begun = time.monotonic_ns()
                client.connect((topology.subscriber.address, _PORT))
                times[client.getsockname()[1]] = time.monotonic_ns() - begun
                server.accept()[0].close()

    with Tool("tcp-latency", "--pid", str(os.getpid())) as tool:
        topology.publisher.call(connect)
        told = [line for line in tool.stop() if line["type"] == "event" and line["dport"] == _PORT]
    mine = [line for line in told if line["sport"] in times and line["error"] is None]
    latency = fmean(line["latency_ms"] for line in mine) * _MS if mine else float("nan")
    return Connected(latency, fmean(times.values()) / 1e3, len(mine))


def _faults(p: Parameters) -> Faults:
    """Held against what `top` shows as nMin, which is what `ps` shows as min_flt."""
    with Tool("net-pagefault") as tool:
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", _TOUCHING, str(p.pages)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            process.stdout.readline()
            shown = ["ps", "-o", "stat=,min_flt=", "-p", str(process.pid)]
            while True:
                state, top = subprocess.run(shown, capture_output=True, text=True, check=True).stdout.split()
                if state.startswith("S"):
                    break
            found = [
                line["min_flt"]
                for line in tool.stop()
                if line["type"] == "row" and line["table"] == "faults" and line["pid"] == process.pid
            ]
        finally:
            process.communicate()
    return Faults(found[0] if found else 0, int(top))
