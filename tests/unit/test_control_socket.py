"""The control port: who asks is answered from the address that was asked, and nothing else comes of it."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from support.waiting import LIMIT

from tempos import Unavailable
from tempos.control import MAX_DATAGRAM
from tempos.wire import AGAIN
from tempos_broker.control import sockets
from tempos_broker.control.sockets import (
    BUFFER,
    IN_A_ROW,
    NOT_SENT,
    READ_BATCH,
    READ_TIME,
    ControlSocket,
    Receive,
    Reply,
)

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")


@contextmanager
def client(*to: object) -> Iterator[socket.socket]:
    """A socket that is connected and so takes answers from nowhere else; the kernel sees to that."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(LIMIT)
        sock.connect(to)
        yield sock


def echo(unsent: Counter[str], ip: str) -> ControlSocket:
    def receive(datagram: bytes, ip: str, asked: str | None, reply: Reply) -> None:
        reply(f"{asked}, ".encode() + datagram)

    return serving(ip, receive, unsent)


def serving(ip: str, receive: Receive, unsent: Counter[str]) -> ControlSocket:
    made = ControlSocket(ip, 0, receive, unsent)
    made.serve()
    return made


@needs_linux
@pytest.mark.parametrize(("listen", "asked"), [
    ("0.0.0.0", ["127.0.0.1", "127.0.0.2", "127.200.3.4"]), ("127.0.0.2", ["127.0.0.2"]),
])  # fmt: skip
async def test_every_address_answers_for_itself(listen: str, asked: list[str]) -> None:
    unsent: Counter[str] = Counter()
    with closing(echo(unsent, listen)) as control:
        for address in asked:
            with client(address, control.name[1]) as sock:
                sock.send(address.encode())
                assert await asyncio.to_thread(sock.recv, 100) == f"{address}, {address}".encode()
    assert not unsent


@needs_linux
def test_what_two_thousand_members_ask_at_once_waits_until_it_is_heard() -> None:
    # Of any size: the kernel counts the room that it takes for each, which is twice as much as the largest.
    with closing(ControlSocket("127.0.0.1", 0, lambda *_: None, Counter())) as control:
        if control._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < BUFFER:
            pytest.skip("the kernel gives this process less")
        with client("127.0.0.1", control.name[1]) as sock:
            for number in range(2000):
                sock.send(number.to_bytes(2, "big") * (MAX_DATAGRAM // 2))
        came = [int.from_bytes(control._sock.recv(MAX_DATAGRAM)[:2], "big") for _ in range(2000)]
        assert came == list(range(2000))


@pytest.mark.parametrize("dear", [False, True])
async def test_more_than_a_batch_is_read_with_a_turn_of_the_loop_in_between(dear: bool) -> None:
    wanted = [b"%d" % number for number in range(2 * READ_BATCH + 1)]
    seen: list[bytes] = []
    turns: list[int] = []
    complete = asyncio.Event()
    loop = asyncio.get_running_loop()

    def receive(datagram: bytes, ip: str, asked: str | None, reply: Reply) -> None:
        if not seen:
            loop.call_soon(lambda: turns.append(len(seen)))
        seen.append(datagram)
        until = time.monotonic() + READ_TIME
        while dear and time.monotonic() <= until:
            pass
        if len(seen) == len(wanted):
            complete.set()

    with (
        closing(serving("127.0.0.1", receive, Counter())) as control,
        client(*control.name) as sock,
    ):
        for each in wanted:
            sock.send(each)
        await asyncio.wait_for(complete.wait(), LIMIT)
    assert seen == wanted
    assert turns == [1] if dear else 0 < turns[0] <= READ_BATCH


@pytest.mark.parametrize("can_wait", [True, False, None])
async def test_what_nobody_waits_for_gathers_where_much_of_it_comes(
    can_wait: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever comes is soon after what came before, and what gathers is heard when the test says so.
    monkeypatch.setattr(sockets, "GATHER", 3600.0)
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    def receive(datagram: bytes, ip: str, asked: str | None, reply: Reply) -> bool | None:
        heard.put_nowait(datagram)
        return can_wait if datagram == b"renew" else False

    async def hears(sock: socket.socket, datagram: bytes) -> None:
        sock.send(datagram)
        assert await asyncio.wait_for(heard.get(), LIMIT) == datagram

    with (
        closing(serving("127.0.0.1", receive, Counter())) as control,
        client(*control.name) as sock,
    ):
        for _ in range(1 + IN_A_ROW):
            await hears(sock, b"renew")
        if not can_wait:
            await hears(sock, b"renew")
            return
        assert not asyncio.get_running_loop().remove_reader(control._sock), "nothing is watched"
        for datagram in (b"renew", b"join"):
            sock.send(datagram)
        # Somebody waits for an answer: what comes next is heard at once.
        control._readable()
        assert [heard.get_nowait() for _ in range(2)] == [b"renew", b"join"]
        for _ in range(IN_A_ROW):
            await hears(sock, b"renew")
        # When nothing has gathered it is watched again, too.
        control._readable()
        await hears(sock, b"renew")


async def test_of_what_is_larger_than_any_request_only_so_much_is_read_as_shows_it() -> None:
    sizes: list[int] = []
    came = asyncio.Event()

    def receive(datagram: bytes, ip: str, asked: str | None, reply: Reply) -> None:
        sizes.append(len(datagram))
        if len(sizes) == 3:
            came.set()

    with (
        closing(serving("127.0.0.1", receive, Counter())) as control,
        client(*control.name) as sock,
    ):
        sock.send(bytes(48_000))
        sock.send(bytes(MAX_DATAGRAM))
        # As long as an event can be that its publisher sends again.
        sock.send(AGAIN + bytes(8_000))
        await asyncio.wait_for(came.wait(), LIMIT)
    assert sizes == [MAX_DATAGRAM + 1, MAX_DATAGRAM, 8_004]


@needs_linux
async def test_an_answer_that_cannot_be_sent_is_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    unsent: Counter[str] = Counter()
    answers: list[Reply] = []
    came = asyncio.Event()

    def receive(datagram: bytes, ip: str, asked: str | None, reply: Reply) -> None:
        answers.append(reply)
        came.set()

    with (
        closing(serving("0.0.0.0", receive, unsent)) as control,
        client("127.0.0.1", control.name[1]) as sock,
    ):
        sock.send(b"?")
        await asyncio.wait_for(came.wait(), LIMIT)
        answers[0](bytes(70_000))
        answers[0](b"yes")
        assert await asyncio.to_thread(sock.recv, 100) == b"yes"
    assert unsent == {NOT_SENT: 1}
    assert "cannot be sent: Message too long" in caplog.text
    answers[0](b"after it was closed")


async def test_a_port_that_is_taken_is_refused_in_words() -> None:
    with closing(echo(Counter(), "127.0.0.1")) as first:
        port = first.name[1]
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}/udp for control: .*; set broker"):
            ControlSocket("127.0.0.1", port, lambda *_: None, Counter())


@needs_linux
async def test_that_nothing_waits_any_more_is_told_however_long_what_was_heard_took() -> None:
    emptied = asyncio.Event()

    def receive(datagram: bytes, ip: str, asked: str | None, reply: Reply) -> None:
        until = time.monotonic() + 2 * READ_TIME
        while time.monotonic() < until:
            pass

    made = ControlSocket("127.0.0.1", 0, receive, Counter(), emptied.set)
    with closing(made) as control, client("127.0.0.1", made.name[1]) as sock:
        for _ in range(3):
            sock.send(b"one")
        # So long does one take that no other is heard with it.
        for waiting in (True, True, False):
            control._readable()
            assert emptied.is_set() is not waiting
