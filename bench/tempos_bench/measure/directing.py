"""What a program that hands datagrams on carries, on three nodes: what came of a rate, and what it took.

Senders are sockets at A, on the first core; whoever hands on has the other core of B; both under SCHED_FIFO,
so that a busy machine is not what is measured. Collectors are an address that C swallows: its kernel counts
each datagram, also of those that come as one buffer, and drops it, which costs everybody the same and next
to nothing. Counted is what came until shortly after the last datagram was sent: what waits in a queue then is
not carried.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tempos_bench.measure.stats import ratio
from tempos_bench.nodes.node import Program, ProgramFailed
from tempos_bench.nodes.patience import patience
from tempos_bench.nodes.topology import Topology, know, mac_of, swallow
from tempos_bench.peers.directors import PRIORITY, Shape
from tempos_bench.peers.usage import Running, measured
from tempos_bench.runs.rounds import cores

#: Collectors at most: an address of their network, and ports from this one on.
COLLECTORS, SWALLOWED, FIRST_PORT = 4, "10.0.2.200", 7001
#: Seconds after the last datagram until which arrivals count, and without any until nothing is under way.
_GRACE, _IDLE, _LOOK = 0.1, 0.15, 0.01
_SETTLE = patience(15.0)
#: More than are sent in any time, and than one number has.
_ENDLESS = 1 << 31


@dataclass(frozen=True, slots=True)
class Case:
    """Datagrams of ``size`` bytes from so many ``senders``, to collectors in a shape."""

    shape: Shape
    size: int
    senders: int = 1

    def __str__(self) -> str:
        plain = Shape(self.shape.copies, self.shape.spread)
        kept = ", source kept" if self.shape.keep else ""
        many = f", {self.senders:,} senders" if self.senders > 1 else ""
        return f"{plain}, {self.size:,} B{kept}{many}"


@dataclass(frozen=True, slots=True)
class Load:
    """Sent and lost are counted in what collectors were to get; ``rate``: datagrams/s that the senders sent.

    Processor time, seconds for a million of those datagrams: of who hands on, and of it, the senders and the
    kernel's packet threads together, for a packet's way is charged to whoever runs just then. ``bound``: the
    senders could send no more, so that more might be carried.
    """

    rate: float
    sent: int
    lost: int
    middle: float
    both: float
    bound: bool = False


class Stand(NamedTuple):
    """Who hands on: its process, the port that it listens at, and how datagrams must begin."""

    site: Site
    pid: int
    port: int
    byte: int = 0
    number: int = 0x09000000


class Site:
    """Senders and collectors on the nodes of a topology; ended by ``stack``."""

    def __init__(self, stack: ExitStack, topology: Topology) -> None:
        self.topology = topology
        self._stack = stack
        self._senders: dict[int, Program] = {}
        b, c = topology.broker, topology.subscriber
        swallow(c, SWALLOWED)
        know(b, b.interfaces[-1], SWALLOWED, mac_of(c.address))

    def load(self, stand: Stand, case: Case, rate: float, seconds: float, gone: int = 0) -> Load:
        """Send for so long, at a rate (0: as fast as can be); what came of it.

        ``gone``: so many of those that are to get a copy are not there.
        """
        copies = case.shape.copies - gone
        sender = self._sender(case.senders)
        before = self._came()
        middle = Running(self.topology.broker, stand.pid)
        with measured(middle, (), self.topology.machines) as usage:
            sent = sender.ask(
                {
                    "to": f"{self.topology.broker.address}:{stand.port}",
                    "count": int(rate * seconds) or _ENDLESS,
                    "size": case.size,
                    "rate": rate,
                    "limit": seconds * 1.2 if rate else seconds,
                    "byte": stand.byte,
                    "first": stand.number,
                },
                seconds * 2 + 30,
            )
            time.sleep(_GRACE)
            came = self._came() - before
        self._rest()
        millions = sent["sent"] / 1e6
        return Load(
            rate=ratio(sent["sent"], (sent["ended_ns"] - sent["began_ns"]) / 1e9),
            sent=sent["sent"] * copies,
            lost=max(0, sent["sent"] * copies - came),
            middle=ratio(usage.server, millions),
            both=ratio(usage.all + sent["used_ns"] / 1e9, millions),
        )

    def settle(self, stand: Stand, case: Case, who: str) -> None:
        """Return once datagrams come through; raises :class:`ProgramFailed` if none does."""
        end = time.monotonic() + _SETTLE
        while (tried := self.load(stand, case, 200.0, 0.1)).lost:
            if time.monotonic() > end:
                raise ProgramFailed(f"{who}: {tried.lost} of {tried.sent} datagrams do not come through")

    def _sender(self, count: int) -> Program:
        if count not in self._senders:
            a = self.topology.publisher
            self._senders[count] = a.role(
                "senders",
                "--bind",
                a.address,
                "--senders",
                count,
                "--fifo",
                PRIORITY + 10,
                ready=True,
                talk=True,
                cpu=cores()[0],
            )
            self._stack.callback(self._senders[count].stop)
        return self._senders[count]

    def _came(self) -> int:
        """Datagrams that C was ever given, one by one or as one buffer (`ip_rcv_core` in the kernel)."""
        return self.topology.subscriber.call(_ip_datagrams)

    def _rest(self) -> None:
        """Until nothing comes any more."""
        seen, last = self._came(), time.monotonic()
        end = last + _SETTLE
        while (now := time.monotonic()) - last < _IDLE and now < end:
            time.sleep(_LOOK)
            count = self._came()
            if count != seen:
                seen, last = count, now


def _ip_datagrams() -> int:
    names, values = (
        line.split()[1:]
        for line in Path("/proc/thread-self/net/netstat").read_text().splitlines()
        if line.startswith("IpExt:")
    )
    return int(values[names.index("InNoECTPkts")])


def cases(words: Sequence[str]) -> list[Case]:
    """Read cases as they stand in a scenario's file; raises :class:`ValueError` for any other text."""
    return [_case(text) for text in words]


def _case(text: str) -> Case:
    copies, spread, size, keep, senders = 1, 1, 0, False, 1
    try:
        for number, part in enumerate(each.strip().replace(",", "") for each in text.split(", ")):
            words = part.split()
            if number == 0 and words[1:] in (["copy"], ["copies"]):
                copies = int(words[0])
            elif number == 0 and words[:2] == ["spread", "over"]:
                spread = int(words[2])
            elif words[1:] == ["B"]:
                size = int(words[0])
            elif words == ["source", "kept"]:
                keep = True
            elif words[1:] == ["senders"]:
                senders = int(words[0])
            else:
                raise ValueError(part)
        if not (1 <= copies * spread <= COLLECTORS and 6 <= size <= 1472 and 1 <= senders <= 60_000):
            raise ValueError(text)
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"{text!r}: allowed: 'N copies, SIZE B' or 'spread over N, SIZE B' (N up to {COLLECTORS}, SIZE 6 "
            "to 1,472), and behind it ', source kept' and ', N senders'"
        ) from error
    return Case(Shape(copies, spread, keep), size, senders)
