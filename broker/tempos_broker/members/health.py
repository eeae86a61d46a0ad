"""Static members of foreign topics: those that do not take what they are sent are out until they do.

Collectors say nothing themselves. What shows is that the kernel does not find who is next on the way to one
(:mod:`.watch`), that packets come back as unreachable (ICMP, RFC 792), and what a probe says where a group
has one. Rules: who is bad for as long as its group says is out of the route, and back as soon as it is not
bad any more; the last of a group stays. Who is out gets nothing that could come back, so it is sent an empty
datagram each second, from a port of its own. Hosts send few ICMP packets, to all alike: so silence counts
only after a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from tempos import GroupOptions, Member, Topic
from tempos._awaitables import in_time, until_next
from tempos._remarks import Remark
from tempos._sockets import NO_WAY
from tempos.errors import one_line
from tempos_broker.account.changes import Changes, Kind
from tempos_broker.addresses import Towards
from tempos_broker.membership import Registry
from tempos_broker.routes import Routes
from tempos_broker.tasks import Tasks

#: Seconds between two looks, and two probes of a member; what a connection may take.
EVERY, PROBED, CONNECTING = 0.25, 1.0, 1.0
#: Packets that came back that are read in one turn of the event loop.
AT_ONCE = 32
#: Seconds without a refusal after which there is none any more.
QUIET = 5.0
_UNREACHABLE, _TOO_BIG = 3, 4
_SOL_RAW, _ICMP_FILTER = 255, 1
_UDP = 17
#: What a connected socket is told after it has sent something there.
_REFUSALS = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES})
_LONGEST, _WAITING = 2048, 512

log = logging.getLogger("tempos.broker.members")
Place = tuple[int, str, int]
_T = TypeVar("_T")


def open_icmp() -> socket.socket | None:
    """What hears of packets that came back as unreachable; None: this process may not."""
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except OSError:
        return None
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << _UNREACHABLE) & 0xFFFFFFFF))
    return sock


def came_back(packet: bytes) -> tuple[int, str, int] | None:
    """Of an ICMP packet with its header: which port a UDP packet left from, and whom it cannot reach.

    None: it says no such thing.
    """
    at = (packet[0] & 0xF) * 4 if packet else 0
    icmp, inner = packet[at : at + 8], packet[at + 8 :]
    if len(icmp) < 8 or icmp[0] != _UNREACHABLE or icmp[1] == _TOO_BIG or len(inner) < 20 or inner[9] != _UDP:
        return None
    ports = inner[(inner[0] & 0xF) * 4 :][:4]
    if len(ports) < 4:
        return None
    source, port = struct.unpack("!HH", ports)
    return source, socket.inet_ntoa(inner[16:20]), port


class _Asking:
    """A socket that asks a member by empty datagrams. What goes wrong is told as an errno, 0: nothing."""

    def __init__(self, to: tuple[str, int]) -> None:
        """Raises :class:`OSError`: there is no way, or no socket."""
        self.to = to
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.connect(to)
        except BaseException:
            self._socket.close()
            raise

    def came(self) -> int:
        """What came of the last one."""
        return _error_of(self._socket.recv, _LONGEST)

    def send(self) -> int:
        return _error_of(self._socket.send, b"")

    def close(self) -> None:
        self._socket.close()


def _error_of(call: Callable[[_T], object], argument: _T) -> int:
    try:
        call(argument)
    except BlockingIOError:
        pass
    except OSError as error:
        return error.errno or 0
    return 0


@dataclass(slots=True)
class _Known:
    """Of a member. ``bad``: why, since ``since``; ``refused``: when it refused last, and how."""

    since: float | None = None
    bad: str = ""
    out: bool = False
    refused: tuple[float, str] = (-QUIET, "")
    probed: float = 0.0
    unreached: str = ""
    towards: Towards = ("", None)
    asking: _Asking | None = None
    connecting: asyncio.Task[None] | None = None

    def ask_no_more(self) -> None:
        asking, self.asking = self.asking, None
        if asking is not None:
            asking.close()

    def close(self) -> None:
        self.ask_no_more()
        if self.connecting is not None:
            self.connecting.cancel()


@dataclass(slots=True)
class _Asked:
    """A member, and what its group says."""

    topic: Topic
    group: str
    member: Member
    options: GroupOptions
    others: list[tuple[str, int]] = field(default_factory=list)


class Health:
    """``absent``: where members are that the kernel finds no way to. ``data_port``: what events leave from.

    ``now``: seconds of a monotonic clock.
    """

    def __init__(
        self,
        registry: Registry,
        routes: Routes,
        tasks: Tasks,
        absent: Callable[[], frozenset[Towards]],
        changes: Changes,
        data_port: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._routes = routes
        self._tasks = tasks
        self._absent = absent
        self._log = changes.of(Kind.REACH, log)
        self._data_port = data_port
        self._now = now
        self._known: dict[Place, _Known] = {}
        self._trouble = Remark(log, "the health of members is seen again")
        self._icmp: socket.socket | None = None
        self._listens = False
        self._task: asyncio.Task[None] | None = None

    def _listen(self) -> None:
        """Hear of packets that come back, once there are topics of which some may."""
        if self._listens or not self._registry.foreign:
            return
        self._listens = True
        if self._icmp is None:
            log.info(
                "packets to members that come back are not heard of: that takes CAP_NET_RAW at the start"
            )
            return
        with contextlib.suppress(OSError):
            # What came so far is of a time before; no more than so much of it fits into the socket.
            for _ in range(_WAITING):
                self._icmp.recv(_LONGEST)
        asyncio.get_running_loop().add_reader(self._icmp, self._hear)

    def begin(self) -> None:
        """Look from now on; on the event loop, and while there are privileges: topics may come later."""
        self._icmp = open_icmp()
        self._listen()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="health of members")

    async def close(self) -> None:
        """Look no more; safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._icmp is not None:
            asyncio.get_running_loop().remove_reader(self._icmp)
            self._icmp.close()
            self._icmp = None
        for known in self._known.values():
            known.close()
        self._known.clear()

    def why(self, topic: int, ip: str, port: int) -> str:
        """Why a member is out; empty where it is not."""
        known = self._known.get((topic, ip, port))
        return known.bad if known is not None and known.out else ""

    def towards(self) -> frozenset[Towards]:
        """Where members are that are out, and are to be looked for nevertheless."""
        return frozenset(known.towards for known in self._known.values() if known.out)

    def out(self) -> int:
        """How many members are out."""
        return sum(known.out for known in self._known.values())

    def _hear(self) -> None:
        assert self._icmp is not None, "nothing else is read"
        # Nothing more is there, or the network is not.
        with contextlib.suppress(OSError):
            # Anybody may send these, as many as he likes: events have their turn in between.
            for _ in range(AT_ONCE):
                source, *whom = came_back(self._icmp.recv(_LONGEST)) or (0,)
                if source != self._data_port:
                    continue
                for (_, *place), known in self._known.items():
                    if place == whom:
                        known.refused = self._now(), "what is sent to it comes back: ICMP unreachable"

    async def _run(self) -> None:
        while True:
            try:
                self.look()
                self._trouble.gone()
            except Exception as error:  # noqa: BLE001 - logged in full; it must not end the watch
                self._trouble(f"the health of members could not be seen: {one_line(error)}", trace=True)
            await asyncio.sleep(until_next(EVERY))

    def look(self) -> None:
        """Once: probe what is due, and take out or let in who has changed."""
        now, absent = self._now(), self._absent()
        self._listen()
        asked = {(each.topic.id, each.member.ip, each.member.port): each for each in self._asked()}
        for place in self._known.keys() - asked.keys():
            self._known.pop(place).close()
        changed = set()
        for place, each in asked.items():
            known = self._known.setdefault(place, _Known())
            if not known.out:
                known.towards = self._towards(each)
            self._probe(known, each, now)
            if self._judge(known, each, absent, now):
                changed.add(each.topic.id)
        for topic in changed:
            down = frozenset((ip, port) for (of, ip, port), known in self._known.items()
                             if of == topic and known.out)  # fmt: skip
            self._registry.set_down(topic, down)
            self._tasks.spawn(self._routes.swap(topic), "take members out or in")

    def _asked(self) -> Iterator[_Asked]:
        for topic in self._registry.foreign:
            options = {each.name: each for each in topic.groups}
            for state in self._registry.states(topic.id):
                of = options.get(state.name) or GroupOptions(state.name)
                for membership in state.members.values():
                    yield _Asked(topic, state.name, membership.member, of, list(state.members))

    def _towards(self, each: _Asked) -> Towards:
        """As the route in force has it."""
        state = self._routes.states.get(each.topic.id)
        for group in state.route.groups if state is not None else ():
            for member in group.members:
                if (member.ip, member.port) == (each.member.ip, each.member.port):
                    return member.ip, member.source
        return each.member.ip, each.member.source

    def _judge(self, known: _Known, each: _Asked, absent: frozenset[Towards], now: float) -> bool:
        """Whether it is out now and was not, or the other way."""
        refused, how = known.refused
        bad = ""
        if known.towards in absent:
            bad = "the kernel finds no way to it, or no MAC address of it or its gateway"
        elif now - refused < QUIET:
            bad = how
        elif each.options.probe == "tcp":
            bad = known.unreached
        if bad:
            known.bad = bad
            known.since = now if known.since is None else known.since
        else:
            known.since = None
        patience = each.options.down_after
        others = [self._known.get((each.topic.id, *other)) for other in each.others
                  if other != (each.member.ip, each.member.port)]  # fmt: skip
        some_left = any(other is None or not other.out for other in others)
        wanted = known.since is not None and 0 < patience <= now - known.since and (known.out or some_left)
        if known.out and known.since is not None and not some_left and others:
            # All of the others went after it: who stays of a group that is gone is as good as any.
            wanted = True
        if wanted == known.out:
            return False
        known.out = wanted
        self._tell(known, each)
        return True

    def _tell(self, known: _Known, each: _Asked) -> None:
        words = f"member {each.member} of topic {each.topic.name} (group {each.group})"
        if known.out:
            self._log.warning("%s is taken out, others of the group get its share: %s", words, known.bad)
        else:
            self._log.warning("%s is back, and gets its share again", words)

    # --- probes -----------------------------------------------------------------------------

    def _probe(self, known: _Known, each: _Asked, now: float) -> None:
        wanted = each.options.probe
        by_udp = wanted == "udp" or (known.out and wanted != "tcp")
        if not each.options.down_after:
            return
        if not by_udp:
            known.ask_no_more()
        if now - known.probed < PROBED:
            return
        known.probed = now
        if by_udp:
            self._ask(known, each, now)
        if wanted == "tcp" and known.connecting is None:
            known.connecting = asyncio.get_running_loop().create_task(self._connect(known, each))

    def _ask(self, known: _Known, each: _Asked, now: float) -> None:
        """What came of the last datagram, and another one."""
        to = each.member.ip, each.options.probe_port or each.member.port
        if known.asking is not None and known.asking.to != to:
            known.ask_no_more()
        error = 0
        if known.asking is not None:
            error, sent = known.asking.came(), known.asking.send()
            if sent in NO_WAY:
                # The address that it sends from may be no more, and it keeps that: a new one is to say so.
                known.ask_no_more()
            else:
                error = error or sent
        if known.asking is None:
            try:
                known.asking = _Asking(to)
                error = error or known.asking.send()
            except OSError as failed:
                error = error or failed.errno or 0
        if error in _REFUSALS:
            at = "" if to[1] == each.member.port else f" at port {to[1]}"
            known.refused = now, f"what is sent to it{at} comes back: {os.strerror(error)}"

    async def _connect(self, known: _Known, each: _Asked) -> None:
        ip, port = each.member.ip, each.options.probe_port or each.member.port
        try:
            _, writer = await in_time(asyncio.open_connection(ip, port), CONNECTING)
            writer.close()
            known.unreached = ""
        except (OSError, asyncio.TimeoutError) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "no answer"
            known.unreached = f"no connection to its TCP port {port}: {why}"
        finally:
            known.connecting = None
