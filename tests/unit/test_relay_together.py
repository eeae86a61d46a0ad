"""Replies for one asker that came together are sent on together; each is counted, and refused, by itself."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from tempos import Framing, Quality, Reason, Topic, _abi, wire
from tempos.requests import envelope
from tempos.sending.gathered import MOST, kernel_segments
from tempos_broker.slowpath.relay import Relay
from tempos_broker.slowpath.returns import Returns

pytestmark = pytest.mark.skipif(not kernel_segments(), reason="this kernel does not know UDP_SEGMENT")

TOPIC = Topic(7, "asked", framing=Framing.EVENT)
AT = wire.HEADER_LEN
NEVER = 2.0**31


class Kernel:
    """Takes what is sent, but for datagrams of a length in ``refused``, and buffers where these are."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, tuple[str, int]]] = []
        self.calls = 0
        self.buffers_refused = 0
        self.refused: dict[int, int] = {}

    def sendto(self, datagram: bytes, to: tuple[str, int]) -> None:
        self._look(self.refused.get(len(datagram), 0))
        self.sent.append((datagram, to))

    def sendmsg(self, buffers: Any, control: Any, _flags: int, to: tuple[str, int]) -> None:
        ((level, _, size),) = control
        assert level == socket.IPPROTO_UDP
        whole, step = b"".join(buffers), int.from_bytes(size, "little")
        self._look(self.buffers_refused or self.refused.get(step, 0))
        self.sent += [(whole[at : at + step], to) for at in range(0, len(whole), step)]

    def _look(self, number: int) -> None:
        self.calls += 1
        if number:
            raise OSError(number, errno.errorcode[number])


class Stand:
    def __init__(self) -> None:
        self.kernel, self.counted = Kernel(), Counter[Reason]()
        self.returns = Returns(bytes(32), 9998)
        core: Any = SimpleNamespace(refused=lambda topic, reason, count: self.counted.update({reason: count}))
        self.relay = Relay(core, [TOPIC], self.returns)
        found: Any = SimpleNamespace(address="127.0.0.1", sock=self.kernel)
        self.relay.channels(Quality.BQ, [found], None)

    def reply(self, asker: int, number: int, body: bytes, sealed: bool = True) -> bytes:
        address = self.returns.grant("10.0.0.1", asker, "127.0.0.1", NEVER) if sealed else bytes(24)
        asked = wire.encode_event(
            7, asker, number, 9, envelope.request(address, b"token!"), _abi.FLAG_ENVELOPE
        )
        return envelope.answer(asked[: AT + envelope.LENGTH], AT, 77) + body

    @property
    def came(self) -> list[tuple[int, bytes]]:
        return [(port, datagram[AT + envelope.LENGTH :]) for datagram, (_, port) in self.kernel.sent]


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    monkeypatch.setattr("tempos_broker.slowpath.relay.since_start", lambda: NEVER)
    return Stand()


def test_those_of_one_size_for_one_asker_leave_together(stand: Stand) -> None:
    wanted = [(4000, b"%03d" % number) for number in range(2 * MOST + 1)]
    wanted += [(4001, b"one"), (4001, b"two"), (4001, b"three"), (4000, b"end")]
    replies = [stand.reply(port, number, body) for number, (port, body) in enumerate(wanted)]
    replies.insert(70, stand.reply(4000, 999, b"bad", sealed=False))
    stand.relay.replies(7, replies)
    assert stand.came == wanted
    assert stand.counted == {Reason.REPLY: len(wanted), Reason.BAD_RETURN: 1}
    # Three buffers of the first, one of two, and two alone.
    assert stand.kernel.calls == 6


def test_where_a_buffer_is_refused_each_is_told_its_own(stand: Stand) -> None:
    small, large = [stand.reply(4000, n, b"small") for n in range(3)], [stand.reply(4000, 9, bytes(2000))] * 2
    stand.kernel.refused[len(large[0])] = errno.EMSGSIZE
    stand.relay.replies(7, [*small, *large])
    assert stand.counted == {Reason.REPLY: 3, Reason.REPLY_UNSENT: 2}
    told = [datagram for datagram, _ in stand.kernel.sent[3:]]
    assert [envelope.read(each, AT).code for each in told] == [_abi.ERROR_TOO_BIG] * 2
    # A way that takes no buffers is remembered, one that is full is not.
    for number, calls in ((errno.ENOBUFS, 4), (errno.EIO, 4), (errno.EIO, 3)):
        stand.kernel.buffers_refused, stand.kernel.calls = number, 0
        stand.relay.replies(7, small)
        assert stand.kernel.calls == calls
    assert stand.counted[Reason.REPLY] == 12


def test_one_that_came_by_itself_is_sent_on_or_told_its_own(stand: Stand) -> None:
    good, bad = stand.reply(4000, 1, b"good"), stand.reply(4000, 2, b"bad", sealed=False)
    large = stand.reply(4001, 3, bytes(2000))
    stand.kernel.refused[len(large)] = errno.EMSGSIZE
    for each in (good, bad, large):
        stand.relay.reply(7, each)
    assert stand.counted == {Reason.REPLY: 1, Reason.BAD_RETURN: 1, Reason.REPLY_UNSENT: 1}
    assert stand.came[0] == (4000, b"good")
    ((told, to),) = stand.kernel.sent[1:]
    assert (envelope.read(told, AT).code, to) == (_abi.ERROR_TOO_BIG, ("10.0.0.1", 4001))
