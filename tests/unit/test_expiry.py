"""The end of leases: nobody is taken out before what waits at the control port has been heard."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from support.waiting import LIMIT

from tempos_broker.control.hearing import Hearing
from tempos_broker.control.sockets import READ_BATCH, ControlSocket
from tempos_broker.expiry import Expiry

RENEWS = b"renews"


class Stand:
    """A control socket, in whose requests one renews the only lease, and who takes members out.

    ``busy``: another request comes with each that is heard, so that there is always one that waits.
    """

    def __init__(self, lease: float, *, busy: bool = False) -> None:
        self.ends: float | None = time.monotonic() - 1.0
        self.heard: Counter[bytes] = Counter()
        self.taken_out = asyncio.Event()
        self.lease, self.busy = lease, busy
        self.control = ControlSocket("127.0.0.1", 0, self.receive, Counter())
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.connect(self.control.name)
        registry: Any = SimpleNamespace(next_expiry=lambda: self.ends, expire=self.expire)
        ledger: Any = SimpleNamespace(settle=lambda before: None, next_settlement=lambda: None)
        routes: Any = SimpleNamespace(lease=lease)
        tasks: Any = SimpleNamespace()
        self.expiry = Expiry(registry, ledger, routes, tasks)
        self.expiry.hearing = Hearing(self.control.has_heard)

    def receive(self, datagram: bytes, *_: Any) -> None:
        self.heard[datagram] += 1
        if datagram == RENEWS:
            self.ends = time.monotonic() + self.lease
        if self.busy:
            self.client.send(b"another")

    def expire(self, now: float) -> dict[int, Any]:
        if self.ends is not None and self.ends <= now:
            self.ends = None
            self.taken_out.set()
        return {}

    def close(self) -> None:
        self.expiry.cancel()
        self.control.close()
        self.client.close()


async def until_taken_out(stand: Stand) -> None:
    await asyncio.wait_for(stand.taken_out.wait(), LIMIT)


async def test_whose_heartbeat_waits_behind_others_is_not_taken_out() -> None:
    with closing(Stand(3600.0)) as stand:
        for _ in range(3 * READ_BATCH):
            stand.client.send(b"another")
        stand.client.send(RENEWS)
        stand.control.serve()
        stand.expiry.expire()
        began = time.monotonic()
        while not stand.heard[RENEWS]:
            assert time.monotonic() < began + LIMIT
            await asyncio.sleep(0)
        stand.expiry.expire()
        assert not stand.taken_out.is_set()
        assert stand.ends is not None


@pytest.mark.parametrize("busy", [False, True])
async def test_who_is_silent_is_taken_out_however_much_others_ask(busy: bool) -> None:
    with closing(Stand(0.05, busy=busy)) as stand:
        stand.client.send(b"another")
        stand.control.serve()
        stand.expiry.schedule()
        await until_taken_out(stand)
        assert not stand.heard[RENEWS]


async def test_where_nothing_waits_nobody_stays_for_longer() -> None:
    with closing(Stand(3600.0)) as stand:
        stand.control.serve()
        stand.expiry.expire()
        assert stand.taken_out.is_set()
