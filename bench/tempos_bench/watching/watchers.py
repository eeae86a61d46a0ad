"""Who watches: the tools of tempos and of others, by the act that they tell of.

Whether a tool works is judged by a known event, not by its exit code: there are tools that attach nothing
and look well. Others' tools need tracefs, which is not mounted everywhere: each runs in a mount namespace
of its own that has it.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

#: Mounts what others' tools need, for them alone, and becomes the tool; what cannot be may be there already.
_WITH_TRACEFS = (
    "mount -t tracefs none /sys/kernel/tracing 2>/dev/null; "
    "mount -t debugfs none /sys/kernel/debug 2>/dev/null; "
    'exec "$@"'
)
TEMPOS, BPFTRACE, LIBBPF, BCC, PERF = "tempos", "bpftrace", "libbpf-tools", "bpfcc-tools", "perf"
STRACE = "strace"
#: Stands in a command for the process that is watched.
PID = "{pid}"
#: The question of tcp-latency as one would ask bpftrace on a kernel without kprobes.
_LATENCY = """
tracepoint:sock:inet_sock_set_state /args->newstate == 2/ { @t[args->skaddr] = nsecs; @p[args->skaddr] = pid;
  @c[args->skaddr] = comm; }
tracepoint:sock:inet_sock_set_state /args->oldstate == 2/ {
  printf("%d %s %s %s %d %d %d\\n", @p[args->skaddr], @c[args->skaddr], ntop(args->saddr), ntop(args->daddr),
  args->dport, args->sport, (nsecs - @t[args->skaddr]) / 1000);
  delete(@t[args->skaddr]); delete(@p[args->skaddr]); delete(@c[args->skaddr]); }
"""
_FAULTS = "software:page-faults:1 { @[pid, comm] = count(); } interval:s:1 { print(@); }"


@dataclass(frozen=True, slots=True)
class Watcher:
    """``by``: whose tool it is. ``counts``: it tells a number for each process, not a line for each event."""

    by: str
    name: str
    command: tuple[str, ...]
    counts: bool = False

    @property
    def label(self) -> str:
        return f"{self.by} {self.name}" if self.name not in ("", self.by) else self.by

    @property
    def attaches(self) -> bool:
        """It watches one process, which must be there first."""
        return PID in self.command

    @property
    def stops(self) -> bool:
        """It stops the watched program at each of its system calls."""
        return self.by == STRACE

    @property
    def missing(self) -> str | None:
        """What is not installed, or None."""
        program = self.command[0]
        return None if Path(program).is_absolute() and Path(program).exists() else program

    def started(self, pid: int = 0) -> tuple[str, ...]:
        """The command line; ``pid``: of who is watched."""
        command = tuple(str(pid) if word == PID else word for word in self.command)
        if self.by == TEMPOS:
            return command
        return ("unshare", "-m", "sh", "-c", _WITH_TRACEFS, "sh", "stdbuf", "-oL", *command)


def _tempos(tool: str, *options: str, counts: bool = False) -> Watcher:
    return Watcher(TEMPOS, tool, (sys.executable, "-m", "tempos", "observe", tool, *options), counts)


def _bpftrace(name: str, program: str, *, counts: bool = False) -> Watcher:
    return Watcher(BPFTRACE, name, (_found("bpftrace"), "-e", program), counts)


def _script(name: str) -> Watcher:
    return Watcher(BPFTRACE, f"{name}.bt", (_found("bpftrace"), _found(f"{name}.bt")))


def _libbpf(name: str, *options: str) -> Watcher:
    return Watcher(LIBBPF, name, (_found(name), *options))


def _bcc(name: str, *options: str) -> Watcher:
    return Watcher(BCC, name, (_found(f"{name}-bpfcc"), *options))


def _perf(call: str) -> Watcher:
    return Watcher(PERF, "trace", (_found("perf"), "trace", "-a", "-e", call))


def _strace(call: str) -> Watcher:
    return Watcher(
        STRACE, "-c", (_found("strace"), "-c", "-f", "-e", f"trace={call}", "-p", PID), counts=True
    )


def _found(program: str) -> str:
    return shutil.which(program) or program


def watchers() -> dict[str, tuple[Watcher, ...]]:
    """By the act that they tell of; of the others the first is what the target is held against."""
    return {
        "connects": (
            _tempos("tcp-latency"),
            _bpftrace("program", _LATENCY),
            _libbpf("tcpconnlat"), _libbpf("tcpstates"), _libbpf("tcplife"), _libbpf("tcpconnect"),
            _script("tcpconnect"), _script("tcplife"),
            _bcc("tcpconnlat"), _bcc("tcpstates"),
            _perf("connect"), _strace("connect"),
        ),
        "opens": (
            _tempos("opensnoop"),
            _script("opensnoop"), _libbpf("opensnoop"), _bcc("opensnoop"),
            _perf("openat"), _strace("openat"),
        ),
        "execs": (
            _tempos("execsnoop"),
            _script("execsnoop"), _libbpf("execsnoop"), _bcc("execsnoop"),
        ),
        "faults": (
            _tempos("net-pagefault", "--interval", "1", counts=True),
            _bpftrace("program", _FAULTS, counts=True),
        ),
    }  # fmt: skip
