"""A socket that is watched goes on being watched, whatever its errors, on either event loop."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import pytest
import uvloop
from support.ports import free_ports
from support.waiting import LIMIT

from tempos import control
from tempos._sockets import WatchingReader
from tempos.session import ControlSession
from tempos.session.link import ControlLink


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("told", [True, False])
def test_what_comes_after_something_came_back_is_still_read(
    new_loop: Callable[[], asyncio.AbstractEventLoop], told: bool
) -> None:
    """``told``: the loop hears of the refusal; otherwise the next sending takes it away before."""

    async def run() -> None:
        (port,) = free_ports(1)
        came: asyncio.Queue[bytes] = asyncio.Queue()
        refused = asyncio.Event()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(("127.0.0.1", port))
            WatchingReader(sock, came.put_nowait, lambda lost: None, refused.set)
            # Over loopback it comes back before the call returns.
            sock.send(b"to nobody")
            if told:
                await asyncio.wait_for(refused.wait(), LIMIT)
            else:
                with pytest.raises(ConnectionRefusedError):
                    sock.send(b"to nobody either")
                await asyncio.sleep(0)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                peer.bind(("127.0.0.1", port))
                for number in (b"1", b"2"):
                    peer.sendto(number, sock.getsockname())
                    assert await asyncio.wait_for(came.get(), LIMIT) == number
            asyncio.get_running_loop().remove_reader(sock)

    loop = new_loop()
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_answer_that_waits_is_heard_before_it_is_missed(
    new_loop: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a program that stood still every timer is due, and the answer has come."""
    monkeypatch.setattr(control, "RETRY_AFTER", (0.1,))

    async def run(broker: socket.socket) -> None:
        host, port = broker.getsockname()
        session = ControlSession(client=77, broker=host)
        link = await ControlLink.open(host, port, session, lambda event: None)

        def answer() -> None:
            datagram, client = broker.recvfrom(2048)
            broker.sendto(control.encode_ok(control.decode_request(datagram).id), client)
            # Without a turn of the loop, in which it would be read.
            until = time.monotonic() + 0.2
            while time.monotonic() < until:
                pass

        asyncio.get_running_loop().add_reader(broker, answer)
        try:
            await asyncio.wait_for(link.ask("hello"), LIMIT)
        finally:
            asyncio.get_running_loop().remove_reader(broker)
            await link.close()

    loop = new_loop()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as broker:
            broker.bind(("127.0.0.1", 0))
            loop.run_until_complete(run(broker))
    finally:
        loop.close()
