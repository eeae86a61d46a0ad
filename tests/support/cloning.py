"""The tc program under `BPF_PROG_TEST_RUN`: its clones really leave, so it runs between two links of its own.

Frames go in by hand and what comes out at the far ends is captured. The XDP program, which would hand the
packets on, is not needed for that: it has maps in common with the tc program and nothing else.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from pyroute2 import IPRoute

from support.packets import PORT
from support.program import ADDRESSES, GATE, by_topic, grown, put_route, unroute, volumes_in, zero
from support.waiting import LIMIT
from tempos import Framing, Reason
from tempos._abi import Way
from tempos._rows import Rows
from tempos._slots import epoch_row
from tempos_bench.nodes.namespace import Namespace
from tempos_bpf.objects import BpfObject
from tempos_fastpath.clone import MAPS, OBJECT, PROGRAM, Clones
from tempos_fastpath.layout import encode_route, encode_settings
from tempos_fastpath.loading import OBJECT as XDP_OBJECT
from tempos_fastpath.loading import PROGRAM as XDP_PROGRAM
from tempos_fastpath.network.legs import Hop
from tempos_fastpath.plan import Plan
from tempos_fastpath.ports import KernelPorts
from tempos_fastpath.rows import KernelRows, sizes
from tempos_fastpath.survival.pins import LATENCY
from tempos_fastpath.tickets import SharedTickets

T = TypeVar("T")

#: What the program gives for a packet that it has consumed, and for one it leaves to others.
SHOT, NEXT = 2, 0xFFFFFFFF
ETH_P_ALL = 3
LINKS = 2
#: Ends what a capture waits for; sent on the same way behind the clones.
_END = b"\xff" * 60


@dataclass(frozen=True)
class Outcome:
    """What one frame led to: the verdict, how it was counted if it was, the frames at each far end."""

    verdict: int
    counted: tuple[int, Reason] | None
    out: tuple[list[bytes], ...]


class CloneRig:
    """The loaded program; ``near`` are the interfaces that members may be reached by."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._space = self._stack.enter_context(Namespace("clones"))
        self.near = self._space.call(_make_links)
        self._far, self._enders = (
            [
                self._stack.enter_context(self._space.call(lambda n=name + str(i): _packets(n)))
                for i in range(LINKS)
            ]
            for name in ("far", "near")
        )
        self._down: set[int] = set()
        self._settings = settings = encode_settings(PORT, ["10.9.9.9", ADDRESSES.broker], GATE, generic=False)
        self.rows = Rows()
        xdp = BpfObject(XDP_OBJECT, {"settings": settings}, sizes=sizes(self.rows, LATENCY))
        self._stack.callback(xdp.close)
        self._clone = BpfObject(OBJECT, {"settings": settings}, {name: xdp.map(name) for name in MAPS})
        self._stack.callback(self._clone.close)
        self.map = xdp.map
        self.xdp = xdp.program(XDP_PROGRAM)
        self.program = self._clone.program(PROGRAM)
        self.tickets = SharedTickets(xdp.map("tickets").mmap(), self.rows)
        self._stack.callback(self.tickets.close)
        self._places = KernelRows(xdp.map("rows").mmap())
        self._stack.callback(self._places.close)
        self.ports = KernelPorts(xdp.map("ports").mmap())
        self._stack.callback(self.ports.close)

    def install(self, topic: int, groups: Sequence[Sequence[Hop]], *, framing: Framing, epoch: int = 1,
                way: Way = Way.CLONE, sources: tuple[str, ...] = ()) -> None:  # fmt: skip
        """Swap a route in."""
        self.install_plan(Plan(topic, epoch, framing, 1500, tuple(map(tuple, groups)), sources, way))

    def install_plan(self, plan: Plan) -> None:
        """The same of a plan."""
        row = self.rows.give(plan.topic)
        self._places.configure(self.rows.given())
        put_route(self.map, plan, row, encode_route(plan, row, dict.fromkeys(self.near, 0)))

    def clear(self) -> None:
        for topic, row in self.rows.given().items():
            unroute(self.map("routes"), row)
            unroute(self.map("small_routes"), row)
            for epoch in (0, 1):
                self.tickets.reset(topic, epoch)
        for name in ("counters", "copies"):
            zero(self.map(name))

    def run(self, frame: bytes) -> Outcome:
        """Run on one frame and collect what came out; one counter may grow by one, and bytes by that."""
        before = self._sums()
        with _one_cpu():
            result = self._space.call(lambda: self.program.run(frame))
            out = tuple(self._until_end(link) if link not in self._down else [] for link in range(LINKS))
        after = self._sums()
        counted = by_topic(after, self.rows) - by_topic(before, self.rows)
        assert sum(counted.values()) <= 1
        wanted: Counter[tuple[int, str]] = Counter()
        for topic, reason in counted:
            wanted = grown(self.rows.of[topic], reason, frame)
        assert volumes_in(after) - volumes_in(before) == wanted
        return Outcome(result.verdict, next(iter(counted), None), out)

    def clones(self) -> Clones:
        """The program as the fast path has it, attached to nothing yet."""
        return Clones({name: self.map(name) for name in MAPS}, None)

    def by_settings(self, *interfaces: int) -> dict[int, bytes]:
        """Where to serve, and what the program goes by there."""
        return dict.fromkeys(interfaces, self._settings)

    def here(self, work: Callable[[], T]) -> T:
        """Do something in the namespace of the links."""
        return self._space.call(work)

    def arrive(self, frame: bytes, link: int, out: int) -> list[bytes]:
        """A frame comes in by one link; what leaves by the other."""
        with _one_cpu():
            self._far[link].send(frame)
            return self._until_end(out)

    def set_up(self, link: int, up: bool) -> None:
        """Take an interface towards members down, or up again."""

        def work() -> None:
            index, wanted = self.near[link], "UP" if up else "DOWN"
            end = time.monotonic() + LIMIT
            with IPRoute() as ip:
                ip.link("set", index=index, state=wanted.lower())
                while ip.get_links(index)[0].get_attr("IFLA_OPERSTATE") != wanted:
                    assert time.monotonic() < end, f"the link did not go {wanted}"

        self._space.call(work)
        # That the interface went down is kept as an error for the next call.
        self._enders[link].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        (self._down.discard if up else self._down.add)(link)

    def handed_on(self, topic: int) -> int:
        """Packets of a topic that the XDP program has left to the tc program."""
        return by_topic(self._sums(), self.rows)[topic, Reason.BY_CLONE]

    def copies(self, topic: int, epoch: int) -> tuple[int, list[int]]:
        """Events, and copies sent of each group."""
        row = self.map("copies").sum_rows(epoch_row(self.rows.of[topic], epoch), 1).tolist()
        return row[16], row[:16]

    def close(self) -> None:
        self._stack.close()

    def _until_end(self, link: int) -> list[bytes]:
        self._enders[link].send(_END)
        frames: list[bytes] = []
        while (frame := self._far[link].recv(65536)) != _END:
            # IPv6's own chatter of a fresh link.
            if frame[12:14] == b"\x08\x00":
                frames.append(frame)
        return frames

    def _sums(self) -> memoryview:
        return self.map("counters").sum_rows()


@contextmanager
def _one_cpu() -> Iterator[None]:
    """Stay on one CPU, also in threads begun meanwhile: each has a queue of its own for what a veth is given.

    So what is sent later is not seen earlier.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _make_links() -> list[int]:
    with IPRoute() as ip:
        for i in range(LINKS):
            ip.link("add", ifname=f"near{i}", kind="veth", peer={"ifname": f"far{i}"})
            for name in (f"near{i}", f"far{i}"):
                ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up", arp=False)
        return [ip.link_lookup(ifname=f"near{i}")[0] for i in range(LINKS)]


def _packets(interface: str) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    raw.settimeout(LIMIT)
    raw.bind((interface, ETH_P_ALL))
    return raw
