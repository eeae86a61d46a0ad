"""net-pagefault: which processes use the network, in which role, and what page faults they have."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tempos_bpf.shown import Number, Numbers, NumberTable, Same, Shown
from tempos_observe import calls
from tempos_observe.frame.printing import numbered
from tempos_observe.frame.session import Session
from tempos_observe.frame.sockets import OWNERS, Owner, address, owners
from tempos_observe.tool import Column, Example, Hook, Row, Still, Table, Tool

#: What a use is, as the programs number it.
_CONNECT, _ACCEPT, _SENT, _RECEIVED, _OTHER = range(5)
_SENDS = ("write", "writev", "sendto", "sendmsg", "sendmmsg", "sendfile", "splice", "io_uring_enter")
_CALLS = {"accept": 1, "accept4": 1, "recvfrom": 2, "recvmsg": 3, "recvmmsg": 4, **dict.fromkeys(_SENDS, 5)}
_MS = 1e6
#: The programs that run when they are asked: iterators over all threads, and what sums up those of users.
_OF_ALL, _SOUGHT, _LOOK = "tempos_threads", "tempos_sought", "tempos_look"
#: What becomes of a user: its threads live; they do not, and the kernel is about to sum up what they used.
_LIVES, _ENDS, _ENDED = range(3)
#: Seconds that the kernel is given to sum up a process that has just ended, and between two looks.
_PATIENCE, _AGAIN = 0.5, 0.01
_FRAMES = {0x0806: "ARP", 0x0800: "IPv4", 0x86DD: "IPv6", 0x88CC: "LLDP", 0x88F7: "PTP"}
_PROTOCOLS = {
    number: name.removeprefix("IPPROTO_")
    for name, number in vars(socket).items()
    if name.startswith("IPPROTO_") and name not in ("IPPROTO_IP", "IPPROTO_RAW", "IPPROTO_MAX")
}

_WHO = (
    Column("PID", "pid", 7, "<d"),
    Column("IPVER", "ipver", 5, "<d", spare=1),
    Column("PROC_NAME", "comm", 15),
    Column("IPSOURCE", "saddr", 15),
    Column("IPDEST", "daddr", 15),
)
_MORE = (Column("NETNS", "netns", 10, "d", spare=2), Column("COUNT", "count", 8, "d"))
_BYTES = Column("BYTES", "bytes", 9, "d")
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
    """``before``: what each process had used up at the start. ``known``: whose a socket is, or nobody's.

    What did not change is kept from look to look, and that is nearly all: rows by kind and place in the
    kernel's array, and of processes by their number.
    """

    before: Mapping[int, _Usage]
    known: dict[int, Owner | None] = field(default_factory=dict)
    looked_ns: int = 0
    rows: dict[int, dict[int, Row]] = field(default_factory=dict)
    #: The same as they are shown; a kind that is not there has changed.
    tables: dict[int, list[Row]] = field(default_factory=dict)
    #: Uses of sockets whose owner had to be looked for: whether he is wanted may change by itself.
    sockets: dict[int, Any] = field(default_factory=dict)
    #: Names, and the versions of IP that they used.
    users: dict[int, tuple[str | None, frozenset[int]]] = field(default_factory=dict)
    now: dict[int, _Usage] = field(default_factory=dict)
    faults: dict[int, Row] = field(default_factory=dict)
    #: How much of everything there was at the last look.
    shape: tuple[int, ...] = ()


def _usages_of_all(session: Session) -> dict[int, _Usage]:
    """Of every process that lives."""
    found: dict[int, _Usage] = {}
    for thread in session.iterate(_OF_ALL, "tempos_thread"):
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
    return found


def _usages_of_users(session: Session) -> set[int]:
    """Look at processes that use the network, or have and have ended; those that used anything since."""
    session.object.program(_LOOK).call()
    used = set()
    for _, user in session.changed("users"):
        if user.pid:
            used.add(user.pid)
            session.state.now[user.pid] = _Usage(
                user.usage_started_ns,
                user.usage_min_flt,
                user.usage_maj_flt,
                user.usage_cpu_ns,
                user.usage_wait_ns,
            )
    return used


def _settle(session: Session) -> None:
    """Wait until the kernel has summed up those that have just ended: it does that a little later."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        session.object.program(_LOOK).call()
        if all(user.state != _ENDS for user in session.filled("users")):
            return
        time.sleep(_AGAIN)


def _look(session: Session) -> _State:
    """What was used since the last look is known."""
    state: _State = session.state
    if state.looked_ns == session.looked_ns:
        return state
    state.looked_ns = session.looked_ns
    news = {at: used for at, used in session.changed("uses") if used.times}
    sockets = {at: used for at, used in news.items() if used.key_inode}
    if unknown := {used.key_inode for used in sockets.values()} - state.known.keys():
        _find(session, unknown)
    state.sockets.update(sockets)
    for at, used in (news | state.sockets).items():
        _note(session, at, used)
    return state


def _note(session: Session, at: int, used: Any) -> None:
    """The row of a use, and who its user is."""
    state: _State = session.state
    pid, comm = used.key_pid, used.comm
    if not pid:
        owner = state.known.get(used.key_inode)
        pid, comm = (owner.pid, owner.comm) if owner else (None, None)
        if not session.wants(pid, comm):
            return
    what, version = used.key_what, _version(used.key_ends_family)
    row = _ROWS[what](used, pid, version, comm)
    rows = state.rows.setdefault(what, {})
    if rows.get(at) != row:
        rows[at] = row
        state.tables.pop(what, None)
    if pid is None:
        return
    name, versions = state.users.get(pid, (comm, None))
    if versions is None or (version and version not in versions):
        state.users[pid] = (name, (versions or frozenset()) | ({version} if version else set()))
        state.faults.pop(pid, None)


def _find(session: Session, unknown: set[int]) -> None:
    """Whose these sockets are; those are users, too.

    All files of all processes are gone through: once for each socket, whether it is found or not.
    """
    known = session.state.known
    known.update(dict.fromkeys(unknown))
    known.update(owners(session))
    sought = session.object.map("sought")
    if found := {owner.pid for owner in map(known.get, unknown) if owner}:
        for pid in found:
            sought.update(pid, b"\x01")
        for _ in session.iterate(_SOUGHT, "tempos_thread"):
            raise AssertionError("it writes nothing")
        for pid in found:
            sought.delete(pid)


def _version(family: int) -> int | None:
    return 4 if family == socket.AF_INET else 6 if family == socket.AF_INET6 else None


def _row_of(
    what: int, port: Callable[[Any], int]
) -> Callable[[Any, int | None, int | None, str | None], Row]:
    def row(used: Any, pid: int | None, version: int | None, comm: str | None) -> Row:
        source, target = (
            (used.key_ends_local, used.key_ends_remote)
            if what in (_CONNECT, _SENT)
            else (used.key_ends_remote, used.key_ends_local)
        )
        family = used.key_ends_family
        who = (pid, version, comm, address(source, family), address(target, family), port(used))
        return (
            *who,
            used.key_namespace,
            used.times,
            *((used.bytes,) if what in (_SENT, _RECEIVED) else ()),
        )

    return row


def _other(used: Any, pid: int | None, version: int | None, comm: str | None) -> Row:
    family, protocol = used.key_ends_family, used.key_protocol
    if used.key_frame:
        named = _FRAMES.get(protocol, f"0x{protocol:04x}")
        ends: tuple[str | None, str | None] = (None, None)
    else:
        named = _PROTOCOLS.get(protocol, str(protocol))
        ends = address(used.key_ends_local, family), address(used.key_ends_remote, family)
    return (pid, version, comm, *ends, named, used.key_namespace, used.times, used.bytes)


_ROWS = {
    _CONNECT: _row_of(_CONNECT, lambda used: int(used.key_ends_remote_port)),
    _ACCEPT: _row_of(_ACCEPT, lambda used: int(used.key_ends_local_port)),
    _SENT: _row_of(_SENT, lambda used: int(used.key_ends_remote_port)),
    _RECEIVED: _row_of(_RECEIVED, lambda used: int(used.key_ends_local_port)),
    _OTHER: _other,
}


def _uses(what: int) -> Callable[[Session], list[Row]]:
    def rows(session: Session) -> list[Row]:
        state = _look(session)
        if what not in state.tables:
            state.tables[what] = [*state.rows.get(what, {}).values()]
        return state.tables[what]

    return rows


def _faults(session: Session) -> list[Row]:
    state = _look(session)
    for pid in _usages_of_users(session):
        state.faults.pop(pid, None)
    for pid, (comm, versions) in state.users.items():
        if pid not in state.faults:
            ipver = ",".join(map(str, sorted(versions))) or None
            used: Row = (None, None, None, None)
            if now := state.now.get(pid):
                since = now.since(state.before.get(pid))
                used = (since.minor, since.major, since.cpu / _MS, since.wait / _MS)
            state.faults[pid] = (pid, comm, ipver, *used)
    return [*state.faults.values()]


def _still(session: Session, encoding: str) -> Still | None:
    """What shows all of it as long as nobody and nothing new turns up: then only numbers change."""
    state: _State = session.state
    uses, users = session.seen("uses"), session.seen("users")
    shape = (len(uses), len(users), len(state.users), *map(len, state.rows.values()))
    before, state.shape = state.shape, shape
    wishes = session.wishes
    if shape != before or (state.sockets and (wishes.pids or wishes.comm or wishes.broker)):
        return None
    at, same = {}, []
    usages = {}
    # Of whom a place is, and since when he lives; whoever gets the next place, too.
    used_size, user_size = session.layouts("uses")[1].size, session.layouts("users")[1].size
    for place, user in enumerate(session.layouts("users")[1].read_all(users)):
        if user.pid:
            at[user.pid], usages[user.pid] = place, user
        for member, size in (("pid", 4), ("usage_started_ns", 8)):
            offset = place * user_size + session.offset("users", member)
            same.append(Same(session.shared("users"), offset, users[offset : offset + size]))
    for place, used in enumerate(session.layouts("uses")[1].read_all(uses)):
        if not used.times:
            offset = place * used_size + session.offset("uses", "times")
            same.append(Same(session.shared("uses"), offset, uses[offset : offset + 8]))
    for name, raw, size in (("uses", uses, used_size), ("users", users, user_size)):
        count = (len(raw) // size).to_bytes(8, sys.byteorder)
        same.append(Same(session.shared("filled"), session.offset("filled", name), count))
    if any(pid not in at or pid not in state.now for pid in state.users):
        return None
    tables = [_still_uses(session, view, what) for what, view in enumerate(_VIEWS[:-1])]
    tables.append(_still_faults(session, at, usages))
    return Shown(tables, same, session.object.program(_LOOK).fd, encoding)


def _still_uses(session: Session, view: Table, what: int) -> NumberTable:
    rows = session.state.rows.get(what, {})
    members = ("times",) if what in (_CONNECT, _ACCEPT) else ("times", "bytes")
    plain = [row[: -len(members)] + (0,) * len(members) for row in rows.values()]
    head, begins, wide = numbered(view, plain, len(members), session.wishes)
    columns = (Number(session.offset("uses", each), width) for each, width in zip(members, wide, strict=True))
    return NumberTable(
        session.shared("uses"), session.layouts("uses")[1].size, head, tuple(columns),
        [Numbers(begin, place) for begin, place in zip(begins, rows, strict=True)], most=session.wishes.top,
    )  # fmt: skip


def _still_faults(session: Session, at: Mapping[int, int], usages: Mapping[int, Any]) -> NumberTable:
    state: _State = session.state
    members = ("usage_min_flt", "usage_maj_flt", "usage_cpu_ns", "usage_wait_ns")
    plain = [(*row[:3], 0, 0, 0.0, 0.0) for row in state.faults.values()]
    head, begins, wide = numbered(_VIEWS[-1], plain, len(members), session.wishes)
    columns = (
        Number(session.offset("users", each), width, _MS if each.endswith("_ns") else 0.0)
        for each, width in zip(members, wide, strict=True)
    )
    rows = []
    for begin, pid in zip(begins, state.faults, strict=True):
        was = state.before.get(pid)
        counts = was is not None and was.started == usages[pid].usage_started_ns
        base = (was.minor, was.major, was.cpu, was.wait) if was and counts else ()
        rows.append(Numbers(begin, at[pid], base))
    return NumberTable(
        session.shared("users"), session.layouts("users")[1].size, head, tuple(columns), rows,
        most=session.wishes.top,
    )  # fmt: skip


_VIEWS = (
    Table(
        "connect",
        "Tcp client side (connect):",
        (*_WHO, _CLIENT, *_MORE),
        _uses(_CONNECT),
        order="count",
        keeps=True,
    ),
    Table(
        "accept",
        "Tcp server side (accept):",
        (*_WHO, _SERVER, *_MORE),
        _uses(_ACCEPT),
        order="count",
        keeps=True,
    ),
    Table(
        "udp_sent",
        "Udp sent:",
        (*_WHO, _CLIENT, *_MORE, _BYTES),
        _uses(_SENT),
        order="count",
        keeps=True,
    ),
    Table(
        "udp_received",
        "Udp received:",
        (*_WHO, _SERVER, *_MORE, _BYTES),
        _uses(_RECEIVED),
        order="count",
        keeps=True,
    ),
    Table(
        "other",
        "Other protocols sent:",
        (*_WHO, Column("PROTO", "protocol", 8), _MORE[0], Column("COUNT", "count", 5, "d"), _BYTES),
        _uses(_OTHER),
        order="count",
        keeps=True,
    ),
    Table("faults", "Page fault:", _FAULTS, _faults, order="min_flt", keeps=True),
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
        Hook(_LOOK, "threads of those that use the network: the same, when it is shown"),
        Hook(_SOUGHT, "iterator task: which process it is whose socket sent, when it is shown"),
        OWNERS,
    ),
    views=lambda wishes: _VIEWS,
    rodata=lambda wishes: {"calls": calls.table(_CALLS), "has_calls": bytes([calls.are_known()])},
    start=lambda session: _State(_usages_of_all(session)),
    settle=_settle,
    still=_still,
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
