"""A straight topology that live frames run through, A to C, with whatever forwards them in B.

A's probe sends, C's drops and counts; both on one core, where the forwarder's work is done as well.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

from tempos import DATA_PORT, Framing, Group, Member, Path, TemposError, Topic, wire
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.frame import udp_frame
from tempos_bench.measure.probe import Probe, attached_program
from tempos_bench.nodes.topology import Topology, build, mac_of

TOPIC = Topic(id=1, name="events", framing=Framing.EVENT)
GROUP = "bench"
_SOURCE_PORT = 40000
#: Seconds without an arrival after which a slow path has sent all it had taken; to wait for the first one;
#: between two looks.
_IDLE, _FIRST, _LOOK = 0.3, 5.0, 0.002


@dataclass(frozen=True, slots=True)
class Crossing:
    """``sent`` frames in ``seconds``, of which ``received`` came out."""

    sent: int
    received: int
    seconds: float

    @property
    def rate(self) -> float:
        """Frames per second at the far end."""
        return self.received / self.seconds


class Lane:
    """One topology with its probes; ended by ``stack``."""

    def __init__(self, stack: ExitStack, core: int, payload: int, mac: str | None = None) -> None:
        """``payload``: bytes. ``mac``: the frames' destination, where it is not to be the broker's."""
        self.topology: Topology = stack.enter_context(build("straight"))
        a, b, c = self.topology.publisher, self.topology.broker, self.topology.subscriber
        self.source = Probe(a, core)
        self.sink = Probe(c, core)
        self.sink.attach("count_and_drop", c.interfaces[0])
        self._to = (mac or mac_of(b.address), b.address)
        self._body = bytes(payload - wire.HEADER_LEN)
        self.aim(TOPIC.id)

    def aim(self, topic: int, port: int = DATA_PORT) -> None:
        """From now on the frames are events of this topic, to that port."""
        a = self.topology.publisher
        frame = udp_frame(
            (mac_of(a.address), a.address, _SOURCE_PORT),
            (*self._to, port),
            wire.encode_event(topic, publisher=1, sequence=1, sent_ns=1, body=self._body),
        )
        self.source.prepare(frame, a.interfaces[0])

    def cross(self, frames: int, batch: int = 64) -> Crossing:
        """Send ``frames`` live frames through, ``batch`` at a time."""
        before = self.sink.count()
        seconds = self.source.generate(frames, batch)
        return Crossing(frames, self.sink.count() - before, seconds)

    def flood(self, frames: int) -> Crossing:
        """Send ``frames`` all at once, into a slow path's socket; timed until the last arrival."""
        before = seen = self.sink.count()
        began = time.perf_counter()
        self.source.generate(frames)
        last = time.perf_counter()
        while (now := time.perf_counter()) - last < (_IDLE if seen > before else _FIRST):
            count = self.sink.count()
            if count != seen:
                seen, last = count, now
            time.sleep(_LOOK)
        return Crossing(frames, seen - before, last - began)

    def forward_by_broker(self, stack: ExitStack, core: int, members: int = 1, topics: int = 1) -> Broker:
        """Let a broker's fast path forward, natively, to so many members at C.

        ``topics``: how many it serves; the frames are of the first. In the others there is room for one more.
        """
        address = self.topology.subscriber.address
        there = tuple(Member(address, DATA_PORT + i) for i in range(members))
        served = {TOPIC: (Group(GROUP, there),)}
        for number in range(2, topics + 1):
            other = Topic(id=number, name=f"other-{number}", framing=Framing.EVENT)
            served[other] = (Group(GROUP, there[: max(1, members - 1)]),)
        broker = stack.enter_context(Broker(self.topology.broker, served, mode="native", cpu=core))
        for topic in served:
            broker.wait_path(topic.name, Path.FAST)
        return broker

    def program(self) -> int:
        """The id of the XDP program that the broker's node has on the side of A."""
        node = self.topology.broker
        found = attached_program(node, node.interfaces[0])
        if not found:
            raise TemposError(f"{node.interfaces[0]} of the broker's node carries no XDP program")
        return found
