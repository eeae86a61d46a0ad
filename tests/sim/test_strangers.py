"""What strangers send to a member's socket, and to a broker in a member's name, over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from support.ports import free_ports
from support.waiting import LIMIT

from tempos import Publisher, Subscriber, Topic, wire
from tempos.control import encode_request
from tempos.session import proof
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ControlConfig, TopicConfig
from tempos_broker.control.proofs import Proofs
from tempos_broker.paths import NoFastPath

TOPICS = (Topic(1, "alpha"), Topic(300, "wide"))


@contextlib.asynccontextmanager
async def running(**options: object) -> AsyncIterator[Broker]:
    data, control = free_ports(2)
    config = BrokerConfig(
        tuple(map(TopicConfig, TOPICS)), listen=("127.0.0.1",), data_port=data, control_port=control,
        api_port=0, control=ControlConfig(lease=2.0, heartbeat=0.2), **options,  # type: ignore[arg-type]
    )  # fmt: skip
    async with Broker(config, NoFastPath("not here")) as broker:
        yield broker


def publisher(broker: Broker) -> Publisher:
    ports = {"data_port": broker.config.data_port, "control_port": broker.config.control_port}
    return Publisher("127.0.0.1", **ports)  # type: ignore[arg-type]


def subscriber(broker: Broker, *topics: str, **options: object) -> Subscriber:
    return Subscriber("127.0.0.1", *topics, control_port=broker.config.control_port, **options)  # type: ignore[arg-type]


@contextlib.contextmanager
def stranger(address: str = "127.0.0.66", port: int = 0):  # type: ignore[no-untyped-def]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, port))
        sock.setblocking(False)
        yield sock


FORGED = (
    wire.encode_event(1, 9, 0, 0, b"forged"),
    wire.encode_event(300, 9, 0, 0, b"forged"),
    b"",
    b"\x00\x01" + bytes(24),
    b"\x07",
    bytes(1400),
)


@pytest.mark.parametrize("portable", [False, True])
async def test_a_subscriber_takes_events_from_the_brokers_data_port_alone(
    portable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``portable``: where the kernel has no filters and the reader has to ask."""
    if portable:
        for module in ("_sockets.LINUX", "session.doorman._LINUX"):
            monkeypatch.setattr(f"tempos.{module}", False)
    async with running() as broker, subscriber(broker, "alpha", "wide", group="g") as sub:
        async with publisher(broker) as pub:
            with stranger() as other, stranger("127.0.0.1") as same_address:
                for each in (other, same_address):
                    for datagram in FORGED:
                        each.sendto(datagram, (sub.member.ip, sub.member.port))
            for topic in ("alpha", "wide"):
                await pub.publish(topic, topic)
            got = [(await sub.next(LIMIT)).unpack() for _ in range(2)]
        assert got == ["alpha", "wide"]
        assert sub.stats.missed == 0
        assert sub.stats.malformed == {"foreign_source": 2 * len(FORGED)}
        assert sub.poll() is None


async def test_what_comes_while_a_subscriber_joins_is_nobodys_either() -> None:
    async with running() as broker:
        (port,) = free_ports(1)
        sub = subscriber(broker, "alpha", port=port)
        with stranger() as other:
            doorman = sub._intake.doorman
            admit = doorman.admit

            def after_strangers() -> None:
                # Between the proof and the first event, which is all the time that there is.
                for each in FORGED:
                    other.sendto(each, ("127.0.0.1", port))
                admit()

            doorman.admit = after_strangers  # type: ignore[method-assign]
            async with sub, publisher(broker) as pub:
                await pub.publish("alpha", 1)
                assert (await sub.next(LIMIT)).unpack() == 1
                assert sub.stats.malformed == {"foreign_source": len(FORGED)}
                assert (sub.stats.datagrams, sub.stats.events) == (len(FORGED) + 1, 1)


async def test_a_member_whose_broker_forgets_it_proves_anew_and_keeps_its_doorman() -> None:
    async with running() as broker, subscriber(broker, "alpha", group="g") as sub, publisher(broker) as pub:
        known = sub._intake.doorman.broker
        assert known == ("127.0.0.1", broker.config.data_port)
        asked = broker._control.served["prove"]
        # As a broker that begins anew: neither members nor its secret outlive it.
        broker._control._proofs = Proofs()
        broker._registry.goodbye((sub.member.ip, sub.member.port), sub._link._session.client)  # type: ignore[union-attr]
        await broker._routes.swap_all({1})
        for _ in range(int(LIMIT / 0.05)):
            if broker._registry.member_count(1):
                break
            await asyncio.sleep(0.05)
        assert broker._control.served["prove"] == asked + 2
        await pub.publish("alpha", 1)
        assert (await sub.next(LIMIT)).unpack() == 1
        assert (sub._intake.doorman.broker, sub._intake.doorman.expects_proof) == (known, False)


async def test_who_asks_in_anothers_name_gets_it_nothing_but_a_short_answer() -> None:
    """The victim's control port hears of it, its other ports do not; no state, whoever is asked for."""
    loop = asyncio.get_running_loop()
    async with running() as broker, publisher(broker) as pub:
        with stranger("127.0.0.70") as control, stranger("127.0.0.70") as data:
            port = data.getsockname()[1]
            request = encode_request("subscribe", 1, 5, topic="alpha", port=port, proof=b"")
            control.sendto(request, ("127.0.0.1", broker.config.control_port))
            answer = await asyncio.wait_for(loop.sock_recv(control, 2048), LIMIT)
            assert len(answer) <= len(request)
            await pub.publish("alpha", 1)
            await pub.flush()
            # A second time it repeats what it got: only then is the endpoint asked.
            with pytest.raises(BlockingIOError):
                data.recv(2048)
        assert not broker._registry.member_count(1)


def test_a_proof_is_told_from_all_that_can_be_an_event() -> None:
    datagram = proof.encode(2**64 - 1, b"p" * 16)
    assert proof.decode(datagram) == (2**64 - 1, b"p" * 16)
    for other in (datagram[:-1], datagram + b"x", b"\x00\x02" + datagram[2:], b"\x01" + datagram[1:], b""):
        assert proof.decode(other) is None
