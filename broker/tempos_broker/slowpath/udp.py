"""The UDP adapter: the data sockets on the event loop, one for each class where the kernel tells them apart.

What moves the datagrams is compiled where that is to be had, else Python; which and why is in the status.
A socket stays ready for as long as something is in it, so what a turn leaves behind wakes the next. So a turn
looks at those sockets alone that woke it, which saves a lone event most system calls. Only strict ones are
looked at whatever woke it, while any strict event can go somewhere: no such event waits for the loop to tell.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from tempos import Quality, Route, Topic, Unavailable
from tempos.errors import one_line
from tempos_broker.addresses import Towards
from tempos_broker.slowpath.adapter import AdapterStatus, Setting
from tempos_broker.slowpath.core import Delivery, SlowPath
from tempos_broker.slowpath.foreign import ForeignSockets
from tempos_broker.slowpath.losses import Losses
from tempos_broker.slowpath.marking import Marked, Marking, mark, mark_each, read_back
from tempos_broker.slowpath.mover import Mover
from tempos_broker.slowpath.raw import open_raw
from tempos_broker.slowpath.relay import Relay
from tempos_broker.slowpath.selector import Selection, Selector
from tempos_broker.slowpath.sockets import DataSocket, Pair, open_all

logger = logging.getLogger(__name__)


def _no_fast_path(strict: int, best_effort: int) -> None:
    raise Unavailable("there is no fast path")


class UdpAdapter:
    """An :class:`~tempos_broker.slowpath.adapter.Adapter` of UDP sockets."""

    def __init__(self, core: SlowPath[Any], losses: Losses, setting: Setting) -> None:
        self._setting = setting
        self._core = core
        self._losses = losses
        self._topics = {topic.id: topic for topic in setting.topics}
        self._relay = Relay(core, setting.topics, setting.returns)
        self._mover = _choose_mover(core, losses, setting, self._relay)
        self._selector = Selector(setting.sockets, setting.select or _no_fast_path)
        self._pairs: list[Pair] = []
        # Of a process that is handed its sockets another one has those.
        listen = () if setting.descriptors else setting.listen
        self._raw: socket.socket | None = None
        self._foreign = ForeignSockets(listen, setting.limits.receive_buffer)
        self._qualities: Collection[Quality] = ()
        self._marked: dict[Quality, Marked] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: Callable[[], None] = lambda: None
        self._watched: dict[Quality, deque[DataSocket]] = {quality: deque() for quality in Quality}
        #: Of those, the ones that have told that something is in them, as far as it was not all received; and
        #: classes of whose sockets that is not known.
        self._ready: dict[Quality, set[DataSocket]] = {quality: set() for quality in Quality}
        self._unknown: set[Quality] = set(Quality)
        self._readers: set[int] = set()
        self._blocked_by: dict[Quality, int] = {}
        self._on_full: Callable[[], None] = lambda: None
        self._shut = False
        self.apart = False

    def change(self, drop: Collection[int], put: Sequence[Topic]) -> None:
        was = [self._topics.pop(topic, None) for topic in (*drop, *(each.id for each in put))]
        for topic in drop:
            self._mover.drop(topic)
        for each in put:
            self._topics[each.id] = each
            self._mover.put(each)
        if any(each is not None and each.ports for each in (*was, *put)):
            self._serve_ports(drop, put)
        # Where the sockets are selected by a list of strict topics, that may have become another one.
        if any(each is not None and each.quality is Quality.SQ for each in (*was, *put)):
            self._selector.configure(self._pairs, list(self._topics.values()))

    def listen(self, topics: Sequence[Topic]) -> None:
        self._have_raw(topics)
        self._foreign.open(topics)

    def _have_raw(self, topics: Iterable[Topic]) -> None:
        """Have what datagrams leave by that keep their source, if those of any group do."""
        if self._raw is None and any(group.keep for topic in topics for group in topic.groups):
            self._raw = open_raw()
            self._mover.raw(self._raw)

    def let_go(self, topics: Sequence[Topic]) -> None:
        self._foreign.let_go(topics)

    def swap(self, route: Route) -> None:
        self._mover.swap(route)

    def leave_out(self, towards: frozenset[Towards]) -> None:
        self._mover.leave_out(towards)

    def make_room(self, more: int, on_full: Callable[[], None]) -> None:
        self._on_full = on_full
        for pair in self._pairs:
            for _, each in pair.each():
                each.room_to_send(more)

    async def connect(self, wake: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = wake
        setting = self._setting
        if setting.descriptors:
            self._pairs = [
                Pair(DataSocket.adopt(strict), DataSocket.adopt(other))
                for strict, other in setting.descriptors
            ]
            self._selector.selection = Selection("inherited", "by the process that opened the sockets")
        else:
            # Held from the first moment, so that close() finds them whatever happens.
            self._pairs = open_all(setting.listen, setting.port, setting.limits.receive_buffer)
            self._pairs = self._selector.divide(
                self._pairs, list(self._topics.values()), setting.limits.receive_buffer
            )
            self._have_raw(self._topics.values())
            self._foreign.open(self._topics.values())
            for topic in self._topics.values():
                self._foreign.put(topic)
            self._warn_of_small_buffers()
        self.apart = all(pair.apart for pair in self._pairs)
        for quality in Quality:
            self._set_channels(quality, None)

    def set_quality(self, quality: Quality, marking: Marking) -> Marked:
        self._mover.raw_tos(quality, marking.tos)
        if self.apart or quality is Quality.BQ:
            each = [mark(pair.of(quality).sock, marking) for pair in self._pairs]
            # One that is not as it was asked for stands for all.
            marked = next((one for one in each if one.reason), each[0])
        else:
            # The socket has best effort's marks, so each strict datagram carries its own.
            marked = self._mark_each(quality, marking)
        before = self._marked.get(quality)
        if marked.reason and (before is None or marked.reason != before.reason):
            logger.warning("%s is not marked as it was asked for: %s", quality.value, marked.reason)
        elif before is not None and before.reason and not marked.reason:
            logger.info("%s is marked as it was asked for", quality.value)
        self._marked[quality] = marked
        return marked

    def watch(self, qualities: Collection[Quality]) -> None:
        assert self._loop is not None, "connected before it is watched"
        for fd in self._readers:
            self._loop.remove_reader(fd)
        self._readers.clear()
        self._unknown.update(Quality)
        self._qualities = qualities
        for quality in Quality:
            wanted = quality in qualities and (self.apart or quality is Quality.SQ)
            self._watched[quality] = deque(pair.of(quality) for pair in self._pairs if wanted)
            if qualities:
                # These are served here, whoever serves the data port.
                self._watched[quality].extend(
                    each for of, each in self._foreign.each() if quality is (of if self.apart else Quality.SQ)
                )
            self._ready[quality].clear()
            for each in self._watched[quality]:
                self._loop.add_reader(each.fd, self._readable, quality, each)
                self._readers.add(each.fd)

    # The Channels of a turn.

    def receive(self, quality: Quality, limit: int) -> int:
        watched, ready = self._watched[quality], self._ready[quality]
        everywhere = self._shut or quality in self._unknown
        if quality is Quality.SQ:
            self._unknown.discard(quality)
            sources = watched if everywhere or self._core.strict_routed else [*ready]
            return sum([self._receive_of(ready, each, limit) for each in sources]) if sources else 0
        # One address after the other, a call for each: SQ is looked at in between.
        for _ in range(len(watched)):
            each = watched[0]
            watched.rotate(-1)
            if not everywhere and each not in ready:
                continue
            received = self._receive_of(ready, each, limit)
            if received:
                others = len(watched) > 1 if everywhere else ready
                return limit if others else received
        self._unknown.discard(quality)
        return 0

    def _receive_of(self, ready: set[DataSocket], source: DataSocket, limit: int) -> int:
        received = self._receive(source, limit)
        (ready.discard if received < limit else ready.add)(source)
        return received

    def send(self, quality: Quality, delivery: Delivery[Any]) -> bool:
        return self._mover.stage(quality, delivery)

    def flush(self, quality: Quality, most: int | None = None) -> int | None:
        if quality in self._blocked_by:
            return None
        flushed = self._mover.flush(quality, most)
        if flushed is None:
            return 0
        for failure in flushed.failures:
            self._losses.send_failed(*failure)
        if flushed.blocked_by is None:
            return flushed.left
        assert self._loop is not None, "only what was received is sent"
        self._blocked_by[quality] = flushed.blocked_by
        self._loop.add_writer(flushed.blocked_by, self._writable, flushed.blocked_by)
        self._on_full()
        return None

    def say(self, datagram: bytes, endpoint: tuple[str, int], via: str | None) -> int:
        return self._relay.say(datagram, endpoint, via)

    def count_overruns(self) -> None:
        sockets = [*(each for pair in self._pairs for each in pair.each()), *self._foreign.each()]
        if self._shut:
            self._losses.turned_away(sockets)
        else:
            self._losses.overruns(sockets)

    def shut(self) -> bool:
        if not self._shut:
            self.count_overruns()
            self._shut = True
        sockets = [*(each for pair in self._pairs for each in pair.each()), *self._foreign.each()]
        refused = [each for _, each in sockets if not each.shut()]
        return not refused

    def descriptors(self) -> Sequence[tuple[int, int]]:
        if not self.apart:
            return ()
        return tuple((pair.strict.fd, pair.best_effort.fd) for pair in self._pairs)

    def status(self) -> AdapterStatus:
        sockets = [each for pair in self._pairs for _, each in pair.each()]
        selection = self._selector.selection
        return AdapterStatus(
            io=self._mover.name,
            reason=self._mover.reason,
            listen=(
                *(str(pair.best_effort) for pair in self._pairs),
                *(str(each) for _, each in self._foreign.each()),
            ),
            receive_buffer=min((each.receive_buffer for each in sockets), default=0),
            apart=selection.kind,
            apart_reason=selection.reason,
            marked=dict(self._marked),
        )

    async def close(self) -> None:
        if self._loop is None:
            return
        self.watch(())
        for quality in Quality:
            if quality not in self._blocked_by:
                self.flush(quality)
        for fd in set(self._blocked_by.values()):
            self._loop.remove_writer(fd)
        self._blocked_by.clear()
        for quality in Quality:
            for failure in self._mover.abandon(quality, errno.ETIMEDOUT):
                self._losses.send_failed(*failure)
        self.count_overruns()
        for pair in self._pairs:
            pair.close()
        self._foreign.close()
        if self._raw is not None:
            self._mover.raw(None)
            self._raw.close()
            self._raw = None
        self._pairs = []
        self._loop = None

    def _serve_ports(self, drop: Collection[int], put: Sequence[Topic]) -> None:
        """Receive at the ports that foreign topics have now; what lies at others is received first."""
        left = [each for topic in drop for each in self._foreign.drop(topic)]
        if self._pairs and not self._setting.descriptors:
            try:
                self._foreign.open(put)
            except Unavailable as error:
                logger.warning("events for a topic do not come in: %s", error)
        left += [each for topic in put for each in self._foreign.put(topic)]
        if self._loop is not None:
            self.watch(self._qualities)
        for each in left:
            while self._receive(each, self._setting.limits.batch):
                pass
            each.close()

    def _receive(self, source: DataSocket, limit: int) -> int:
        try:
            return self._mover.receive(source, limit)
        except OSError as error:
            self._losses.socket_error(source, error)
            return 0

    def _readable(self, quality: Quality, source: DataSocket) -> None:
        self._ready[quality].add(source)
        self._wake()

    def _writable(self, fd: int) -> None:
        assert self._loop is not None, "its writers are removed before it is closed"
        self._loop.remove_writer(fd)
        self._blocked_by = {quality: by for quality, by in self._blocked_by.items() if by != fd}
        self._wake()

    def _set_channels(self, quality: Quality, tos: int | None) -> None:
        self._mover.channels(quality, [pair.of(quality) for pair in self._pairs], tos)

    def _mark_each(self, quality: Quality, marking: Marking) -> Marked:
        try:
            marked = mark_each(marking)
        except OSError as error:
            as_socket = read_back(self._pairs[0].of(quality).sock)
            return Marked(as_socket, f"the kernel marks no single datagrams: {error.strerror}")
        self._set_channels(quality, marking.tos)
        return marked

    def _warn_of_small_buffers(self) -> None:
        wanted, given = self._setting.limits.receive_buffer, self.status().receive_buffer
        if given < wanted:
            logger.warning(
                "asked for a receive buffer of %d bytes, the kernel gives %d: raise it with "
                "`sysctl -w net.core.rmem_max=%d`, or run with CAP_NET_ADMIN",
                wanted, given, wanted,
            )  # fmt: skip


def _choose_mover(core: SlowPath[Any], losses: Losses, setting: Setting, relay: Relay) -> Mover[Any]:
    from tempos_broker.slowpath.portable import Singly

    if setting.portable:
        reason = "asked for"
    elif sys.platform != "linux":
        reason = f"recvmmsg needs Linux, this is {sys.platform}"
    else:
        try:
            from tempos_broker.slowpath.batched import Batch
        except ImportError as error:
            reason = f"the compiled helper cannot be loaded: {one_line(error)}; tempos doctor says why"
        else:
            return Batch(core, setting.topics, setting.limits, losses.foreign, setting.receipts, relay,
                         setting.journals.of, setting.measures)  # fmt: skip
    return Singly(core, setting.topics, setting.limits, losses.foreign, reason, relay, setting.journals.of,
                  setting.measures)  # fmt: skip
