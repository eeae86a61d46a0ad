"""Replies of one turn of the event loop leave together, and what becomes of each is counted."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tempos import EventTooBig, _abi, wire
from tempos.requests import envelope
from tempos.requests.answer import Replies, Request
from tempos.sending.gathered import FEW, MOST, kernel_segments

pytestmark = pytest.mark.skipif(not kernel_segments(), reason="this kernel does not know UDP_SEGMENT")

HEAD = wire.encode_event(7, 1, 2, 3, envelope.request(bytes(range(24)), b"token!"), _abi.FLAG_ENVELOPE)


Ends = tuple["Kernel", socket.socket]


class Kernel:
    """A socket that refuses what its script says: of a datagram, of a buffer of several."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.alone = self.several = self.calls = 0

    def sendto(self, datagram: bytes, to: tuple[str, int]) -> int:
        self._look(self.alone)
        return self.real.sendto(datagram, to)

    def sendmsg(self, *arguments: Any) -> int:
        self._look(self.several)
        return self.real.sendmsg(*arguments)

    def _look(self, number: int) -> None:
        self.calls += 1
        if number:
            raise OSError(number, errno.errorcode[number])


@pytest.fixture
def ends() -> Iterator[Ends]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        for sock in (here, there):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        yield Kernel(here), there


def opened(kernel: Kernel, there: socket.socket) -> tuple[Replies, bytes]:
    """Replies to a broker at that socket, and the head of a request that came from there."""
    port = there.getsockname()[1]
    at = wire.HEADER_LEN + _abi.ENVELOPE_DATA_PORT
    replies = Replies()
    replies.open(kernel, "127.0.0.1")  # type: ignore[arg-type]
    return replies, HEAD[:at] + port.to_bytes(2, "big") + HEAD[at + 2 :]


def asked(replies: Replies, head: bytes) -> Request:
    replies.requests += 1
    return replies.request(("asked", 7, b"", 1, 2, 0, 0, 3, 4, 0), head, wire.HEADER_LEN)


async def answer(replies: Replies, head: bytes, *bodies: bytes, behind: int = FEW) -> None:
    """Answer requests that came at once, of which ``behind`` more wait then."""
    requests = [asked(replies, head) for _ in range(len(bodies) + behind)]
    for request, body in zip(requests, bodies, strict=False):
        await request.reply(body)


def come(there: socket.socket) -> list[bytes]:
    """The bodies of what has arrived."""
    found = []
    while True:
        try:
            found.append(there.recv(2048)[wire.HEADER_LEN + envelope.LENGTH :])
        except BlockingIOError:
            return found


async def turn() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_those_of_a_turn_leave_together_and_a_lone_one_at_once(ends: Ends) -> None:
    kernel, there = ends
    replies, head = opened(kernel, there)
    for number in range(20):
        await answer(replies, head, b"%04d" % number, behind=FEW - 1)
        assert kernel.calls == number + 1
    assert come(there) == [b"%04d" % number for number in range(20)]
    bodies = [b"%04d" % number for number in range(200)]
    await answer(replies, head, *bodies, behind=0)
    await turn()
    assert come(there) == bodies
    assert replies.sent == 220
    assert kernel.calls == 20 + 200 // MOST + 1
    # Of another size it is another buffer.
    mixed = [b"1111", b"2222", b"33", b"44", b"4444"]
    await answer(replies, head, *mixed)
    await turn()
    assert come(there) == mixed


async def test_a_full_socket_is_tried_again_and_a_close_sends_what_waits(ends: Ends) -> None:
    kernel, there = ends
    replies, head = opened(kernel, there)
    await answer(replies, head, b"first")
    kernel.several = errno.EAGAIN
    await answer(replies, head, *[b"later"] * 5)
    await turn()
    assert come(there) == [b"first"]
    kernel.several = 0
    came: list[bytes] = []
    while len(came) < 5:
        await asyncio.sleep(0)
        came += come(there)
    await answer(replies, head, *[b"again"] * 3)
    replies.close()
    assert come(there) == [b"again"] * 3
    assert (replies.sent, replies.failed) == (9, 0)


async def test_what_cannot_be_sent_is_told_to_its_caller_or_counted(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    kernel, there = ends
    replies, head = opened(kernel, there)
    await answer(replies, head, b"first")
    # Larger than what left: that leaves by itself, so that its caller hears of it.
    kernel.alone = errno.EMSGSIZE
    with pytest.raises(EventTooBig):
        await answer(replies, head, b"much larger")
    assert (replies.sent, replies.failed) == (1, 1)
    await answer(replies, head, *[b"later"] * 3)
    kernel.several, kernel.alone = errno.EPERM, errno.EPERM
    await turn()
    assert (replies.sent, replies.failed) == (1, 4)
    assert "not sent" in caplog.text
    # Where only buffers are refused, each leaves by itself from then on.
    kernel.alone, kernel.several = 0, errno.EIO
    await answer(replies, head, *[b"other"] * 20)
    await turn()
    assert come(there) == [b"first", *[b"other"] * 20]
    assert not replies._together._segments
