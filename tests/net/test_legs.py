"""Who lost what: the kernels' own counters name links and receivers, and excuse nothing else."""

from __future__ import annotations

import socket

import pytest
from support.privileges import require_netns

from tempos_bench.measure.legs import Legs, beyond
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.topology import SHAPES, Topology, build
from tempos_bench.runs.run import Run, running

pytestmark = pytest.mark.netns

SENT, PORT = 500, 9001


def lost_by_a_reader_that_does_not_read(topology: Topology, reader: Node) -> int:
    """Send from the publisher to a socket that has little room; how many found none."""
    with (
        reader.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as full,
        topology.publisher.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender,
    ):
        full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
        full.bind((reader.address, PORT))
        full.settimeout(0.5)
        for _ in range(SENT):
            sender.sendto(bytes(100), (reader.address, PORT))
        held = 0
        try:
            while full.recv(200):
                held += 1
        except TimeoutError:
            return SENT - held


@pytest.mark.parametrize("shape", SHAPES)
def test_a_receivers_full_socket_is_named_and_the_brokers_own_is_no_excuse(shape: str) -> None:
    require_netns()
    run = Run()
    with build(shape) as topology, running(run):
        legs = Legs(topology)
        assert str(legs.dropped()) == ""
        assert run.notes == []

        lost = lost_by_a_reader_that_does_not_read(topology, topology.subscriber)
        dropped = legs.dropped()
        assert 0 < lost < SENT
        assert (dropped.before, dropped.behind) == ({}, {"C, full sockets": lost})
        assert beyond(lost, dropped.last) == 0
        assert beyond(lost + 1, dropped.last) == 1
        assert f"behind it: {lost} at C, full sockets" in run.notes[-1]

        ours = lost_by_a_reader_that_does_not_read(topology, topology.broker)
        dropped = legs.dropped()
        assert (dropped.first, dropped.last) == (0, lost)
        assert dropped.other == {"B, full sockets": ours}
        assert f"other drops: {ours} at B, full sockets" in run.notes[-1]


def test_what_is_there_and_was_never_sent_is_never_excused() -> None:
    assert [beyond(lost, 3) for lost in (-2, 0, 2, 3, 5)] == [-2, 0, 0, 0, 2]
