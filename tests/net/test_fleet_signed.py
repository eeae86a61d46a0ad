"""Keys in a fleet: clients name the broker that they ask, and what one has taken no other takes."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.brokers import get
from support.etcd import Cluster
from support.fleets import TOPICS, Fleet, ended
from support.waiting import LIMIT

from tempos import Key, Publisher, auth
from tempos.control import Code, decode_reply, encode_request

KEY = Key("sensor-1", bytes(range(32)))
CLIENTS = f"""{TOPICS}
[[client]]
id = "{KEY.id}"
key = "{KEY.secret.hex()}"
publish = ["*"]
subscribe = ["*"]
"""


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("etcd"))
    made.start()
    yield made
    made.end()


async def test_signed_clients_are_members_everywhere_and_move(etcd: Cluster, tmp_path: Path) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two", more=CLIENTS)) as fleet:
        fleet.start()
        brokers = [fleet.addresses["one"], fleet.addresses["two"]]
        async with (
            fleet.subscriber("two", "a", auth=KEY) as subscriber,
            Publisher(brokers, data_port=fleet.data, control_port=fleet.control, auth=KEY) as publisher,
        ):
            assert subscriber.fleet == (2, 2)
            await publisher.publish("a", 1)
            assert (await subscriber.next(LIMIT)).unpack() == 1
            first = publisher.id
            fleet.signal("one", signal.SIGSTOP)
            while publisher.id == first:
                await publisher.publish("a", 2)
            await publisher.publish("a", 3)
            while (await subscriber.next(LIMIT)).unpack() != 3:
                pass
            fleet.signal("one", signal.SIGCONT)


def test_a_request_that_was_recorded_at_one_broker_is_refused_at_another(
    etcd: Cluster, tmp_path: Path
) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two", more=CLIENTS)) as fleet:
        fleet.start()
        to = auth.addressee_of(f"test-{fleet.data}", f"one-{fleet.data}")
        plain = encode_request("hello", 7, 9)
        recorded = auth.sign_request(KEY, plain, time.time_ns() // 1_000_000, bytes(8), to)

        def ask(name: str) -> str:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(LIMIT)
                sock.sendto(recorded, (fleet.addresses[name], fleet.control))
                error = decode_reply(auth.open_reply(KEY, sock.recv(2048))[2]).error
                return "taken" if error is None else error.code

        assert ask("one") == "taken"
        assert ask("two") == Code.ADDRESSEE
        assert get(fleet.apis["two"], "/v1/status")["control"]["refused"]["wrong addressee"] == 1
