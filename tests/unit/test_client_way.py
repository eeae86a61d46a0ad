"""A client keeps its way to the broker: it waits for one, and follows its name."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from support.minibroker import MiniBrokerThread
from support.waiting import LIMIT

from tempos import LocalError, NoAnswer, NoWay, Publisher, Subscriber, Topic, _sockets, blocking, control
from tempos.session.way import Patience, Roaming, Way, find

HEAT = Topic(7, "heat")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "RETRY_AFTER", (0.02,) * 5)


def free_ports() -> tuple[int, int]:
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return socks[0].getsockname()[1], socks[1].getsockname()[1]


def leads_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let the name of every broker have these addresses; none: let it not be known."""

    async def addresses_of(host: str) -> tuple[str, ...]:
        if not addresses:
            raise NoWay(f"{host} is not known yet")
        return addresses

    monkeypatch.setattr(_sockets, "addresses_of", addresses_of)


async def until(true: Callable[[], object]) -> None:
    async def look() -> None:
        while not true():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(look(), LIMIT)


async def test_who_waits_for_a_broker_gets_it_when_its_name_and_then_its_port_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ports = free_ports()
    leads_to(monkeypatch)
    sub = Subscriber("broker.test", "heat", control_port=ports[1], wait=LIMIT)
    pub = Publisher("broker.test", data_port=ports[0], control_port=ports[1], wait=True)
    opening = asyncio.gather(sub.__aenter__(), pub.__aenter__())
    await asyncio.sleep(0)
    leads_to(monkeypatch, "127.0.0.1")
    await until(lambda: sub._link is not None)
    with MiniBrokerThread(HEAT, ports=ports) as broker:
        await asyncio.wait_for(opening, LIMIT)
        assert broker.core.seen["hello"] >= 1
        await pub.publish("heat", b"here")
        assert (await sub.next(LIMIT)).body == b"here"
        await pub.close()
        await sub.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_who_waits_in_vain_is_told_what_was_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = free_ports()
    with pytest.raises(NoAnswer, match=f"127.0.0.1:{ports[1]}"):
        await Publisher("127.0.0.1", control_port=ports[1], wait=0.05).__aenter__()
    with pytest.raises(NoAnswer):
        await Subscriber("127.0.0.1", "heat", control_port=ports[1], wait=0.05).__aenter__()
    leads_to(monkeypatch)
    with pytest.raises(NoWay, match="not known yet"):
        await Subscriber("broker.test", "heat", wait=0.05).__aenter__()
    with pytest.raises(LocalError, match="negative"):
        Patience(-1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("kind", ["silent", "refuses"])
async def test_a_broker_that_has_moved_is_found_by_its_name(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    leads_to(monkeypatch, "127.0.0.1")
    with MiniBrokerThread(HEAT, heartbeat_ms=100) as first, ExitStack() as stack:
        ports = first.data_port, first.control_port
        sub = await Subscriber("broker.test", "heat", control_port=ports[1]).__aenter__()
        pub = await Publisher("broker.test", data_port=ports[0], control_port=ports[1]).__aenter__()
        await pub.publish("heat", b"1")
        assert (await sub.next(LIMIT)).body == b"1"
        second = stack.enter_context(MiniBrokerThread(HEAT, heartbeat_ms=100, at="127.0.0.2", ports=ports))
        second.core.instance = 2
        if kind == "silent":
            first.deaf = True
        else:
            first._control.close()
        leads_to(monkeypatch, "127.0.0.2")
        await until(lambda: second.core.members("heat"))
        await until(lambda: pub._socket.getpeername()[0] == "127.0.0.2")
        await pub.publish("heat", b"2")
        assert (await sub.next(LIMIT)).body == b"2"
        assert sub.away == {}
        await pub.close()
        await sub.close()


@pytest.mark.parametrize("kind", ["fails", "hangs"])
async def test_a_name_that_cannot_be_looked_up_leads_where_it_led(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    caplog.set_level("INFO", "tempos.way")
    ours, answer = "10.0.0.5", asyncio.Event()
    asked, moves = [], []

    async def addresses_of(host: str) -> tuple[str, ...]:
        asked.append(host)
        if kind == "hangs":
            await answer.wait()
        if not answer.is_set():
            raise NoWay(f"{host} is not known")
        return ("10.0.0.9",)

    async def move(way: Way) -> None:
        moves.append(way)

    monkeypatch.setattr(_sockets, "addresses_of", addresses_of)
    monkeypatch.setattr(_sockets, "source_address", lambda address, port: ours)
    monkeypatch.setattr(_sockets, "is_ours", lambda address: address == ours)
    roaming = Roaming(
        "broker.test", 9997, Way("10.0.0.1", ours), move=move, is_silent=lambda: True, every=lambda: 0.01
    )
    try:
        await until(lambda: "cannot be looked up" in caplog.text)
        ours = "10.0.0.77"
        await until(lambda: moves)
        assert moves == [Way("10.0.0.1", "10.0.0.77")], "the machine's new address, the broker's old one"
        assert kind == "fails" or len(asked) == 1, "one look-up at a time"
        answer.set()
        await until(lambda: len(moves) > 1)
        assert moves[1] == Way("10.0.0.9", "10.0.0.77")
        assert "is known again" in caplog.text
    finally:
        await roaming.end()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_of_several_addresses_those_without_a_way_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lead = {"10.0.0.2", "10.0.0.4"}

    def source_address(address: str, port: int) -> str:
        if address not in lead:
            raise NoWay(f"no way to {address}")
        return "10.0.0.77"

    moves: list[str] = []

    async def move(way: Way) -> None:
        moves.append(way.broker)

    leads_to(monkeypatch, *(f"10.0.0.{number}" for number in (1, 2, 3, 4, 5)))
    monkeypatch.setattr(_sockets, "source_address", source_address)
    assert await find("broker.test", 9997) == Way("10.0.0.2", "10.0.0.77")
    way = Way("10.0.0.2", "10.0.0.77")
    roaming = Roaming("broker.test", 9997, way, move=move, is_silent=lambda: True, every=lambda: 0.01)
    try:
        await until(lambda: len(moves) >= 3)
        assert moves[:3] == ["10.0.0.4", "10.0.0.2", "10.0.0.4"]
    finally:
        await roaming.end()
    lead.clear()
    with pytest.raises(NoWay, match=r"no way to 10.0.0.1$"):
        await find("broker.test", 9997)


@pytest.mark.parametrize("wait", [0, LIMIT, True])
def test_what_is_published_while_there_is_no_way_waits_for_one(
    monkeypatch: pytest.MonkeyPatch, wait: float
) -> None:
    if wait:
        # It waits as long as it was told to wait for a broker.
        monkeypatch.setattr(blocking, "WAY_PATIENCE", 0.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(LIMIT)
        port = receiver.getsockname()[1]
        with blocking.Publisher("127.0.0.1", data_port=port, topics=[HEAT], wait=wait) as pub:
            inner = pub._inner
            assert inner is not None
            real = inner._socket
            tried = threading.Semaphore(0)

            class Gone:
                def send(self, datagram: bytes) -> int:
                    tried.release()
                    raise OSError(errno.EINVAL, "no such address any more")

                def __getattr__(self, name: str) -> object:
                    return getattr(real, name)

            inner._socket = Gone()
            pub.publish("heat", b"x")
            for _ in range(3):
                assert tried.acquire(timeout=LIMIT)
            # Once it is back what waits leaves, and nobody is told of an error.
            inner._socket = real
            pub.flush()
            assert receiver.recv(100).endswith(b"x")
            inner._socket = Gone()
            monkeypatch.setattr(blocking, "WAY_PATIENCE", 0.05)
            pub.publish("heat", b"y")
            # Whoever is closed does not wait for long.
            with pytest.raises(NoWay, match="no such address"):
                pub.close()
