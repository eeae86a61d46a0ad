"""Strangers that ask in the name of addresses that nobody has keep no client from its answers."""

from __future__ import annotations

import random
import socket

import pytest
from support.privileges import require_netns
from support.waiting import until

from tempos import CONTROL_PORT, Topic
from tempos.blocking import Publisher, Subscriber
from tempos.control import encode_request
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.forged import Forged
from tempos_bench.nodes.topology import build, mac_of

pytestmark = [pytest.mark.netns]

TOPIC = Topic(id=7, name="news")
#: More than there is room for, at what an answer takes.
ADDRESSES, REQUESTS = 150, 12_000


def test_who_asks_gets_an_answer_however_many_wait_for_neighbours_that_are_not_there() -> None:
    require_netns()
    rng = random.Random(5)
    with build("straight") as topology, Broker(topology.broker, {TOPIC: ()}, mode="off") as broker:
        node = topology.publisher
        segment = topology.broker.address.rpartition(".")[0]
        macs = [bytes.fromhex(mac_of(each).replace(":", "")) for each in (broker.node.address, node.address)]

        def open_socket() -> socket.socket:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            sock.bind((node.interfaces[0], 0))
            return sock

        with node.call(open_socket) as sock:
            for number in range(REQUESTS):
                who = f"{segment}.{100 + number % ADDRESSES}", rng.randrange(1024, 65536)
                request = encode_request("hello", number, rng.getrandbits(64))
                sock.send(Forged("", who, (broker.node.address, CONTROL_PORT), request).frame(*macs))

        def crowded() -> bool:
            told = broker.status()["control"]
            return bool(told["replies"].get("reply did not fit the socket"))

        until(crowded, "answers are left out")

        def work() -> None:
            to = topology.broker.address
            with Publisher(to) as pub, Subscriber(to, TOPIC.name) as sub:
                pub.publish(TOPIC.name, b"x")
                assert next(iter(sub)).body == b"x"

        node.call(work)
