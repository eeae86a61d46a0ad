"""What the worker's process does: serve the strict sockets, as the broker tells it.

Requests are carried out one after the other. Whatever keeps one from being carried out is told in its answer;
the broker then replaces the worker.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Collection, Mapping
from typing import Any

from tempos import LocalError, Quality, Topic
from tempos._rows import Rows
from tempos._slots import JournalLayout
from tempos.errors import one_line
from tempos_broker.journal.journals import Journals
from tempos_broker.shared import Estate, NotedTickets, SharedRates
from tempos_broker.slowpath import SlowPathServer
from tempos_broker.slowpath.returns import Returns
from tempos_broker.worker.descriptors import receive
from tempos_broker.worker.protocol import (
    Answer,
    Frames,
    Op,
    Request,
    SetUp,
    encode,
    journals_in,
    request_in,
    route_in,
    rows_in,
    topics_in,
)

log = logging.getLogger("tempos.broker.worker")


class Worker:
    """A slow path of its own over sockets, tickets and account that it was handed."""

    def __init__(self, beside: socket.socket) -> None:
        """``beside``: where descriptors come from."""
        self._beside = beside
        self._journals = Journals()
        self._server: SlowPathServer | None = None
        self._rates: SharedRates | None = None
        self._rows = Rows()

    async def carry_out(self, request: Request) -> Answer:
        """Never raises: a fault is in the answer."""
        try:
            return Answer(request.id, fields=await self._do(request.op, request.fields))
        except Exception as error:
            log.exception("the SQ worker cannot carry out %r", request.op.value)
            return Answer(request.id, f"{request.op.value}: {one_line(error)}")

    async def _do(self, op: Op, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        if op is Op.SET_UP:
            return await self._set_up(SetUp.of_fields(fields))
        if self._server is None:
            raise LocalError(f"the worker is asked to {op.value} before it is set up")
        if op is Op.SERVE:
            self._server.serve({Quality.SQ})
        elif op is Op.CHANGE:
            self._adopt(journals_in(fields["journals"]))
            self._change(fields["drop"], topics_in(fields["topics"]), rows_in(fields["rows"]))
            await self._server.sent()
        elif op is Op.SWAP:
            self._server.swap(route_in(fields["route"]))
            await self._server.sent()
        elif op is Op.LEAVE_OUT:
            self._server.leave_out(frozenset((ip, source) for ip, source in fields["towards"]))
        elif op is Op.CLOSE:
            await self._server.close()
        return {}

    async def _set_up(self, told: SetUp) -> Mapping[str, Any]:
        rows = self._rows = Rows(told.limits.topics)
        rows.follow(told.rows)
        estate = Estate(told.estate, rows, timed=told.quality.latency)
        self._adopt(told.journals)
        share = told.share
        if share.rates >= 0:
            self._rates = SharedRates(share.rates, rows, share.rates_stride, share.clock_offset)
            self._rates.follow(told.topics)
        self._server = SlowPathServer(
            topics=told.topics,
            listen=(),
            port=0,
            limits=told.limits,
            tickets=NotedTickets(share, estate, rows),
            quality=told.quality,
            rates=self._rates,
            book=estate.book,
            adapter=told.adapter,
            descriptors=told.sockets,
            receipts=estate.receipts,
            returns=Returns(*told.returns) if told.returns else None,
            journals=self._journals,
            measures=estate.measures,
            serves=(),
        )
        self._server.leave_out(frozenset(told.left_out))
        for route in told.routes:
            self._server.swap(route)
        await self._server.start()
        status = self._server.status()
        # What is there now stays; collecting garbage need not look through it between two events.
        gc.collect()
        gc.freeze()
        return {"io": status.io, "loop": type(asyncio.get_running_loop()).__module__.partition(".")[0]}

    def _adopt(self, journals: Mapping[int, JournalLayout | None]) -> None:
        has = sum(each is not None for each in journals.values())
        self._journals.adopt(journals, receive(self._beside, has))

    def _change(self, drop: Collection[int], put: tuple[Topic, ...], rows: Mapping[int, int]) -> None:
        assert self._server is not None, "set up before"
        self._server.change(drop)
        self._rows.follow(rows, drop)
        if self._rates is not None:
            self._rates.follow(put, drop)
        self._server.change(put=put)


class _Stream(asyncio.Protocol):
    """Requests in order of their coming; None once there will be no more."""

    def __init__(self) -> None:
        self._frames = Frames()
        self.requests: asyncio.Queue[Request | None] = asyncio.Queue()

    def data_received(self, data: bytes) -> None:
        for message in self._frames.feed(data):
            self.requests.put_nowait(request_in(message))

    def connection_lost(self, exc: Exception | None) -> None:
        self.requests.put_nowait(None)


async def run(descriptor: int, beside: int) -> None:
    """Serve until told to close, or the stream behind ``descriptor`` ends: then the broker is gone.

    In that case nothing more is drawn or sent: whoever follows that broker counts on it.
    """
    worker = Worker(socket.socket(fileno=beside))
    transport, stream = await asyncio.get_running_loop().create_unix_connection(
        _Stream, sock=socket.socket(fileno=descriptor)
    )
    while (request := await stream.requests.get()) is not None:
        transport.write(encode(await worker.carry_out(request)))
        if request.op is Op.CLOSE:
            break
    transport.close()
