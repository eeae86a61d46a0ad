"""net-pagefault: which processes use the network, in which role, and what page faults they have."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tempos_observe import calls
from tempos_observe.frame.session import Session
from tempos_observe.frame.sockets import OWNERS, Owner, address, owners
from tempos_observe.tool import Column, Example, Hook, Row, Table, Tool

#: What a use is, as the programs number it.
_CONNECT, _ACCEPT, _SENT, _RECEIVED, _OTHER = range(5)
_SENDS = ("write", "writev", "sendto", "sendmsg", "sendmmsg", "sendfile", "splice", "io_uring_enter")
_CALLS = {"accept": 1, "accept4": 1, "recvfrom": 2, "recvmsg": 3, "recvmmsg": 4, **dict.fromkeys(_SENDS, 5)}
_MS = 1e6
#: The iterators: over all threads, and over those of processes that were seen to use the network.
_OF_ALL, _OF_USERS = "tempos_threads", "tempos_users_threads"
#: Seconds that the kernel is given to sum up a process that has just ended, and between two looks.
_PATIENCE, _LOOK = 0.5, 0.01
_FRAMES = {0x0806: "ARP", 0x0800: "IPv4", 0x86DD: "IPv6", 0x88CC: "LLDP", 0x88F7: "PTP"}
_PROTOCOLS = {
    number: name.removeprefix("IPPROTO_")
    for name, number in vars(socket).items()
    if name.startswith("IPPROTO_") and name not in ("IPPROTO_IP", "IPPROTO_RAW", "IPPROTO_MAX")
}

_WHO = (
    Column("PID", "pid", 7, "<d"),
    Column("IPVER", "ipver", 5, "<d"),
    Column("PROC_NAME", "comm", 15),
    Column("IPSOURCE", "saddr", 15),
    Column("IPDEST", "daddr", 15),
)
_MORE = (Column("NETNS", "netns", 10, "d"), Column("COUNT", "count", 8, "d"))
_BYTES = Column("BYTES", "bytes", 10, "d")
_CLIENT, _SERVER = Column("DPORT", "dport", 5, "d"), Column("LPORT", "lport", 5, "d")
_FAULTS = (
    Column("PID", "pid", 7, "<d"),
    Column("NAME", "comm", 15),
    Column("IPVER", "ipver", 5),
    Column("MIN_FLT", "min_flt", 8, "d"),
    Column("MAJ_FLT", "maj_flt", 8, "d"),
    Column("CPU(ms)", "cpu_ms", 10, ".3f"),
    Column("WAIT(ms)", "wait_ms", 10, ".3f"),
)


@dataclass(frozen=True, slots=True)
class _Usage:
    """What a process has used up since it began at ``started``: faults; nanoseconds on and for the CPU."""

    started: int
    minor: int
    major: int
    cpu: int
    wait: int

    def since(self, before: _Usage | None) -> _Usage:
        if before is None or before.started != self.started:
            return self
        return _Usage(
            self.started,
            self.minor - before.minor,
            self.major - before.major,
            self.cpu - before.cpu,
            self.wait - before.wait,
        )


@dataclass(slots=True)
class _State:
    """``before``: what each process had used up at the start. ``known``: whose a socket is, or nobody's."""

    before: Mapping[int, _Usage]
    known: dict[int, Owner | None] = field(default_factory=dict)
    #: The uses of the look at hand, which every table is made from.
    looked_ns: int = 0
    uses: dict[int, list[tuple[Any, Any]]] = field(default_factory=dict)


def _usages(session: Session, *, of_all: bool = False) -> dict[int, _Usage]:
    """Of those that use the network, or have and have ended; or of every process that lives."""
    found: dict[int, _Usage] = {}
    program = _OF_ALL if of_all else _OF_USERS
    for thread in session.iterate(program, "tempos_thread"):
        sums = found.get(thread.pid)
        # What is summed up of threads that have ended is the same with each of the others.
        minor, major, cpu, wait = (
            (sums.minor, sums.major, sums.cpu, sums.wait)
            if sums
            else (thread.gone_min_flt, thread.gone_maj_flt, thread.gone_cpu_ns, 0)
        )
        found[thread.pid] = _Usage(
            thread.usage_started_ns,
            minor + thread.usage_min_flt,
            major + thread.usage_maj_flt,
            cpu + thread.usage_cpu_ns,
            wait + thread.usage_wait_ns,
        )
    seen = session.object.variables("seen_")
    for key, usage in session.rows("ended") if seen["ended"] else ():
        found.setdefault(
            key.value, _Usage(usage.started_ns, usage.min_flt, usage.maj_flt, usage.cpu_ns, usage.wait_ns)
        )
    for key, waited in session.rows("waited") if seen["waited"] else ():
        if each := found.get(key.value):
            wait = each.wait + waited.value
            found[key.value] = _Usage(each.started, each.minor, each.major, each.cpu, wait)
    return found


def _settle(session: Session) -> None:
    """Wait until the kernel has summed up those that have just ended: it does that a little later."""
    users = {key.value for key, _ in session.rows("users")}
    end = time.monotonic() + _PATIENCE
    while users - _usages(session).keys() and time.monotonic() < end:
        time.sleep(_LOOK)


def _uses(session: Session, what: int) -> Iterator[tuple[Any, Any, int | None, str | None]]:
    """Uses of one kind, with whose they are."""
    state: _State = session.state
    if state.looked_ns != session.looked_ns:
        state.looked_ns, state.uses = session.looked_ns, {}
        unknown: set[int] = set()
        for key, used in session.rows("uses"):
            state.uses.setdefault(key.what, []).append((key, used))
            if key.inode and key.inode not in state.known:
                unknown.add(key.inode)
        if unknown:
            # All files of all processes are gone through: once for each socket, whether it is found or not.
            state.known.update(dict.fromkeys(unknown))
            state.known.update(owners(session))
            for found in filter(None, map(state.known.get, unknown)):
                session.object.map("users").update(found.pid, b"\x01")
    for key, used in state.uses.get(what, ()):
        if key.pid:
            yield key, used, key.pid, used.comm
            continue
        owner = state.known.get(key.inode)
        pid, comm = (owner.pid, owner.comm) if owner else (None, None)
        if session.wants(pid, comm):
            yield key, used, pid, comm


def _version(family: int) -> int | None:
    return 4 if family == socket.AF_INET else 6 if family == socket.AF_INET6 else None


def _table(what: int, port: Callable[[Any], int]) -> Callable[[Session], Iterator[Row]]:
    def rows(session: Session) -> Iterator[Row]:
        for key, used, pid, comm in _uses(session, what):
            source, target = (
                (key.ends_local, key.ends_remote)
                if what in (_CONNECT, _SENT)
                else (key.ends_remote, key.ends_local)
            )
            family = key.ends_family
            row = (pid, _version(family), comm, address(source, family), address(target, family), port(key))
            yield (*row, key.namespace, used.times, *((used.bytes,) if what in (_SENT, _RECEIVED) else ()))

    return rows


def _others(session: Session) -> Iterator[Row]:
    for key, used, pid, comm in _uses(session, _OTHER):
        family = key.ends_family
        if key.frame:
            named = _FRAMES.get(key.protocol, f"0x{key.protocol:04x}")
            ends: tuple[str | None, str | None] = (None, None)
        else:
            named = _PROTOCOLS.get(key.protocol, str(key.protocol))
            ends = address(key.ends_local, family), address(key.ends_remote, family)
        yield (pid, _version(family), comm, *ends, named, key.namespace, used.times, used.bytes)


def _faults(session: Session) -> Iterator[Row]:
    versions: dict[int, tuple[str | None, set[int | None]]] = {}
    for what in range(_OTHER + 1):
        for key, _, pid, comm in _uses(session, what):
            if pid is not None:
                versions.setdefault(pid, (comm, set()))[1].add(_version(key.ends_family))
    state: _State = session.state
    now = _usages(session)
    for pid, (comm, seen) in versions.items():
        ipver = ",".join(str(each) for each in (4, 6) if each in seen) or None
        if pid not in now:
            yield (pid, comm, ipver, None, None, None, None)
            continue
        used = now[pid].since(state.before.get(pid))
        yield (pid, comm, ipver, used.minor, used.major, used.cpu / _MS, used.wait / _MS)


_VIEWS = (
    Table(
        "connect",
        "Tcp client side (connect):",
        (*_WHO, _CLIENT, *_MORE),
        _table(_CONNECT, lambda key: int(key.ends_remote_port)),
        order="count",
    ),
    Table(
        "accept",
        "Tcp server side (accept):",
        (*_WHO, _SERVER, *_MORE),
        _table(_ACCEPT, lambda key: int(key.ends_local_port)),
        order="count",
    ),
    Table(
        "udp_sent",
        "Udp sent:",
        (*_WHO, _CLIENT, *_MORE, _BYTES),
        _table(_SENT, lambda key: int(key.ends_remote_port)),
        order="count",
    ),
    Table(
        "udp_received",
        "Udp received:",
        (*_WHO, _SERVER, *_MORE, _BYTES),
        _table(_RECEIVED, lambda key: int(key.ends_local_port)),
        order="count",
    ),
    Table(
        "other",
        "Other protocols sent:",
        (*_WHO, Column("PROTO", "protocol", 8), *_MORE, _BYTES),
        _others,
        order="count",
    ),
    Table("faults", "Page fault:", _FAULTS, _faults, order="min_flt"),
)

TOOL = Tool(
    name="net-pagefault",
    question="Which processes use the network, and what page faults, CPU time and waiting do they have?",
    programs="net_pagefault",
    hooks=(
        Hook("tempos_connect", "tracepoint inet_sock_set_state: TCP connects"),
        Hook(
            "tempos_call_ended",
            "tracepoint sys_exit: accept; recvfrom, recvmsg and recvmmsg of UDP",
            without="TCP accepts, and from whom datagrams are",
            needs=calls.known,
        ),
        Hook(
            "tempos_leaves",
            "tracepoint net_dev_queue: datagrams that leave, and packets that are neither TCP nor UDP",
            without="UDP sent, other protocols",
            needs=calls.known,
        ),
        Hook(
            "tempos_received",
            "tracepoint sock_recv_length: datagrams that are read otherwise",
            without="datagrams that are read by read() or io_uring",
        ),
        Hook("tempos_exit", "tracepoint sched_process_exit: how long threads waited"),
        Hook("tempos_free", "tracepoint sched_process_free: what processes used up that have ended"),
        Hook(_OF_ALL, "iterator task: faults, CPU time and waiting, by the kernel's own count"),
        Hook(_OF_USERS, "iterator task: the same of those that use the network, when it is shown"),
        OWNERS,
    ),
    views=lambda wishes: _VIEWS,
    rodata=lambda wishes: {"calls": calls.table(_CALLS), "has_calls": bytes([calls.are_known()])},
    start=lambda session: _State(_usages(session, of_all=True)),
    settle=_settle,
    blind=(
        "packets of other protocols that come in: no process asks for them by a system call of its own",
        "datagrams that the firewall or the routing refuses: they do not leave",
        calls.BLIND[0],
    ),
    examples=(
        Example("net-pagefault --duration 60", "who used the network in this minute, and had page faults"),
        Example("net-pagefault --broker --interval 10", "the broker's so far, every ten seconds"),
    ),
)
