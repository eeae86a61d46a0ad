"""When a publisher asks the broker what came of its events: beside them, and soon at their end."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from tempos import wire
from tempos.control import decode_request, encode_ok
from tempos.sending import confirming
from tempos.sending.confirming import EVERY, FLOWING, Confirming

#: Seconds between two events, and until the broker has answered.
PACE, ANSWER = 0.00125, 0.0003


class Jumping(asyncio.SelectorEventLoop):
    """A loop whose time passes while it waits, and only then, and at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None) -> Any:
            self.now += timeout or 0.0
            return select(0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now


class Stand:
    """A publisher and a broker that has all that came at most ``sure`` seconds ago."""

    def __init__(self, loop: Jumping) -> None:
        self.loop = loop
        self.asked: list[float] = []
        self.put: list[float] = []
        self.takes = True
        self.link: Any = SimpleNamespace(send_aside=self.receive, aside=None)
        self.confirming = Confirming(9, 1 << 20, lambda: [self.outlet], self.control, None)
        self.kept = self.confirming.window.of(7)
        self.outlet: Any = SimpleNamespace(
            kept=self.kept, sequence=0, events=0, began=0, is_event=True, topic=SimpleNamespace(name="heat")
        )

    async def control(self) -> Any:
        return self.link

    def publish(self) -> None:
        number = len(self.put)
        self.put.append(self.loop.now)
        self.outlet.sequence = self.outlet.events = number + 1
        self.kept.put(wire.encode_event(7, 9, number, 0, b"x"), 1)

    def receive(self, datagram: bytes) -> None:
        self.asked.append(self.loop.now)
        request = decode_request(datagram)
        (row,) = request.fields["confirm"]
        upto = row.numbered if self.takes else row.lowest
        answer = encode_ok(request.id, confirmed=[[7, 2**31, upto, []]])
        self.loop.call_later(ANSWER, self.link.aside, answer) if self.link.aside else None

    async def flow(self, seconds: float) -> None:
        until = self.loop.now + seconds
        while self.loop.now < until:
            self.publish()
            await asyncio.sleep(PACE)


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Any:
    loop = Jumping()
    monkeypatch.setattr(confirming, "time", SimpleNamespace(monotonic=lambda: loop.now))
    asyncio.set_event_loop(loop)
    yield Stand(loop)
    asyncio.set_event_loop(None)
    loop.close()


def test_while_events_flow_it_asks_right_behind_one(stand: Stand) -> None:
    stand.loop.run_until_complete(stand.flow(2.0))
    # The first one is asked about at once, for nothing is known yet.
    asked = [at for at in stand.asked if at > FLOWING]
    assert 2.0 / (FLOWING + EVERY + 2 * PACE) - 2 < len(asked) <= 2.0 / FLOWING
    assert set(asked) <= set(stand.put)
    assert stand.kept.open <= (FLOWING + EVERY) / PACE + 2


def test_at_the_end_it_asks_without_an_event_until_all_is_known(stand: Stand) -> None:
    stand.loop.run_until_complete(stand.flow(0.5))
    stand.takes = False
    ended, before = stand.loop.now, len(stand.asked)
    stand.loop.run_until_complete(asyncio.sleep(0.5))
    behind = stand.asked[before:]
    assert behind[0] - ended < 2 * EVERY
    assert all(later - earlier < 2 * EVERY for earlier, later in pairwise(behind))
    stand.takes = True
    stand.loop.run_until_complete(stand.confirming.confirmed(1.0))
    assert not stand.confirming.window.is_open
    assert stand.kept.open == 0
    known = len(stand.asked)
    stand.loop.run_until_complete(asyncio.sleep(1.0))
    assert len(stand.asked) <= known + 1
