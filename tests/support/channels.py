"""An adapter without a network: what arrives is put in by the test, what is sent stands in a list.

:class:`MemoryChannels` is what a turn needs of it; :class:`MemoryAdapter` is a whole one.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from tempos import Quality, Route, Topic
from tempos_broker.slowpath.adapter import AdapterStatus, Setting
from tempos_broker.slowpath.core import Delivery, SlowPath
from tempos_broker.slowpath.losses import Losses
from tempos_broker.slowpath.marking import Marked, Marking


class Payloads:
    """The load of a run."""

    def __init__(self, items: Sequence[bytes]) -> None:
        self.items = items

    def split(self, count: int) -> tuple[Payloads, Payloads]:
        return Payloads(self.items[:count]), Payloads(self.items[count:])

    def release(self) -> None:
        self.items = ()


class Sent(NamedTuple):
    """A message: so many copies for one group."""

    quality: Quality
    route: Route
    group: int
    first_ticket: int
    payloads: Sequence[bytes]

    @property
    def copies(self) -> int:
        return len(self.payloads)


class MemoryChannels:
    """Two channels, or one for both classes. ``full``: those that take nothing now."""

    def __init__(self, core: SlowPath[Any], classes: dict[int, Quality], *, apart: bool = True) -> None:
        self.apart = apart
        self.batch = 16
        self.full: set[Quality] = set()
        self._told_full: set[Quality] = set()
        self.sent: list[Sent] = []
        self.log: list[tuple[str, Quality, int]] = []
        self.gathered: dict[Quality, list[Sent]] = {quality: [] for quality in Quality}
        self.incoming: dict[Quality, deque[bytes]] = {quality: deque() for quality in Quality}
        self.after: Callable[[str, Quality], None] = lambda what, quality: None
        self._core = core
        self._classes = classes

    def arrive(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            quality = self._classes.get(datagram[0], Quality.BQ) if self.apart else Quality.SQ
            self.incoming[quality].append(datagram)

    def receive(self, quality: Quality, limit: int) -> int:
        runs: dict[int, list[bytes]] = {}
        waiting, count = self.incoming[quality], 0
        while waiting and count < limit:
            datagram = waiting.popleft()
            runs.setdefault(datagram[0], []).append(datagram)
            count += 1
        for topic, items in runs.items():
            self._core.arrived(topic, len(items), Payloads(items))
        if count:
            self._done("receive", quality, count)
        return count

    def send(self, quality: Quality, delivery: Delivery[Payloads]) -> bool:
        assert quality not in self._told_full, "nothing is offered to a full channel"
        assert len(delivery.load.items) == delivery.count
        self.gathered[quality] += [
            Sent(quality, delivery.route, group, first, delivery.load.items)
            for group, first in enumerate(delivery.first_tickets)
        ]
        return sum(each.copies for each in self.gathered[quality]) >= self.batch

    def flush(self, quality: Quality, most: int | None = None) -> int | None:
        if quality in self.full:
            self._told_full.add(quality)
            return None
        self._told_full.discard(quality)
        gathered, count = self.gathered[quality], 0
        while gathered and (not count or most is None or count + gathered[0].copies <= most):
            count += gathered[0].copies
            self.sent.append(gathered.pop(0))
        left = sum(each.copies for each in gathered)
        if count:
            self._done("send", quality, count)
        return left

    def _done(self, what: str, quality: Quality, count: int) -> None:
        self.log.append((what, quality, count))
        self.after(what, quality)


class MemoryAdapter(MemoryChannels):
    """``made``: every one there is, the newest last."""

    made: list[MemoryAdapter] = []  # noqa: RUF012 - it is meant to be shared

    def __init__(self, core: SlowPath[Any], losses: Losses, setting: Setting) -> None:
        super().__init__(core, {})
        self.setting = setting
        self.routes: dict[int, Route] = {}
        self.watched: frozenset[Quality] = frozenset()
        self.marked: dict[Quality, Marked] = {}
        self.closed = self.is_shut = False
        self._wake: Callable[[], None] | None = None
        self._losses = losses
        self._classes = {topic.id: topic.quality for topic in setting.topics}
        MemoryAdapter.made.append(self)

    def change(self, drop: Collection[int], put: Sequence[Topic]) -> None:
        for topic in drop:
            self._classes.pop(topic, None)
        self._classes.update((topic.id, topic.quality) for topic in put)

    def swap(self, route: Route) -> None:
        self.routes[route.topic.id] = route

    async def connect(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def set_quality(self, quality: Quality, marking: Marking) -> Marked:
        self.marked[quality] = Marked(marking)
        return self.marked[quality]

    def watch(self, qualities: Collection[Quality]) -> None:
        self.watched = frozenset(qualities)

    def receive(self, quality: Quality, limit: int) -> int:
        return super().receive(quality, limit) if quality in self.watched else 0

    def wake(self) -> None:
        assert self._wake is not None, "connected"
        self._wake()

    def count_overruns(self) -> None:
        return

    def shut(self) -> bool:
        self.is_shut = True
        return True

    def descriptors(self) -> Sequence[tuple[int, int]]:
        return ()

    def status(self) -> AdapterStatus:
        listen = tuple(f"{ip}:{self.setting.port}" for ip in self.setting.listen)
        return AdapterStatus("memory", "for tests", listen, 0, "channels", "of its own", dict(self.marked))

    async def close(self) -> None:
        for quality in Quality:
            for each in self.gathered[quality]:
                self._losses.send_failed(
                    each.route.topic.id, each.route.epoch, each.group, each.copies, errno.ETIMEDOUT
                )
            self.gathered[quality].clear()
        self.closed = True
