"""Datagrams from a real socket, sent without a pause, through the fast path: none may be lost.

Native and generic mode, straight and one-armed. The receiver checks every byte, the receiving kernel
every UDP checksum, and the broker's status must say that all went by the fast path.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tempos import DATA_PORT, Framing, Group, Member, Path, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import build, shapes
from tempos_bench.report.figures import Better, Figure
from tempos_bench.runs.rounds import cores, in_turn
from tempos_bench.runs.run import Run

MODES = ("native", "generic")
#: One member is reached by one interface: a second one would show nothing new.
SHAPES = ("straight", "one-armed")
_TOPIC = Topic(id=1, name="events", framing=Framing.EVENT)
_PORT = 9001


@dataclass(frozen=True, slots=True)
class Parameters:
    """``datagrams`` of ``payload`` bytes per mode and shape."""

    datagrams: int
    payload: int


@dataclass(frozen=True, slots=True)
class Blast:
    """Datagrams; ``refused`` by the broker under any reason; ``rate`` in datagrams/s as the sender saw it."""

    sent: int
    received: int
    damaged: int
    repeated: int
    bad_checksums: int
    fast: int
    refused: int
    mode: str
    rate: float


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    variants = {
        f"{mode}, {shape}": partial(measure, shape, mode, p.datagrams, p.payload)
        for mode in MODES
        for shape in SHAPES
        if shape in shapes()
    }
    figures: list[Figure] = []
    for name, blast in in_turn(variants, progress).items():
        lost = blast.sent - blast.received + blast.repeated
        figures += [
            Figure(f"{name}: lost", lost, "datagrams", Better.LOWER),
            Figure(f"{name}: damaged", blast.damaged, "datagrams", Better.LOWER),
            Figure(f"{name}: bad checksums", blast.bad_checksums, "datagrams", Better.LOWER),
            Figure(f"{name}: not by the fast path", blast.sent - blast.fast, "datagrams", Better.LOWER),
            Figure(f"{name}: rate", blast.rate, "datagrams/s"),
        ]
    return figures


def measure(shape: str, mode: str, datagrams: int, payload: int) -> Blast:
    """One blast over a fresh topology; raises :class:`~tempos.TemposError` if the mode is not to be had."""
    core, other = cores()
    with build(shape) as topology:
        a, c = topology.publisher, topology.subscriber
        member = Member(c.address, _PORT)
        with Broker(topology.broker, {_TOPIC: (Group("bench", (member,)),)}, mode=mode, cpu=other) as broker:
            broker.wait_path(_TOPIC.name, Path.FAST)
            sink = c.role(
                "sink",
                "--bind",
                member,
                "--expect",
                datagrams,
                "--size",
                payload,
                ready=True,
                cpu=other,
            )
            sent = a.role(
                "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", _TOPIC.id,
                "--count", datagrams, "--size", payload, cpu=core,
            ).result(60)  # fmt: skip
            got = sink.result(60)
            status = broker.wait_received(_TOPIC.name, datagrams, limit=2)
            mode_in_use = broker.status()["paths"]["fast"]["mode"]
    return Blast(
        sent=sent["sent"],
        received=got["received"],
        damaged=got["damaged"],
        repeated=got["repeated"],
        bad_checksums=got["bad_checksums"],
        fast=status.fast,
        refused=sum(status.refused.values()),
        mode=mode_in_use,
        rate=sent["sent"] / (sent["ended_ns"] - sent["began_ns"]) * 1e9,
    )
