"""The slow path as the rest of the broker sees it: an adapter, a core, and turns between them.

A turn is taken when the adapter wakes the server, and again soon for as long as a turn leaves something to
do; in between the event loop serves control.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tempos import Quality, Reason, Route, Topic
from tempos._awaitables import in_time
from tempos.wire import stamp
from tempos_broker.addresses import Towards
from tempos_broker.config.model import Limits, QualityConfig
from tempos_broker.journal.journals import Journals
from tempos_broker.paths import RateLimits, Tickets
from tempos_broker.slowpath.adapter import AdapterStatus, Setting
from tempos_broker.slowpath.adapters import UDP, find
from tempos_broker.slowpath.book import Book
from tempos_broker.slowpath.core import SlowPath
from tempos_broker.slowpath.losses import Losses
from tempos_broker.slowpath.marking import Marking
from tempos_broker.slowpath.measures import Measured, Measures
from tempos_broker.slowpath.returns import Returns
from tempos_broker.slowpath.selector import Select
from tempos_broker.slowpath.turns import Turns

if TYPE_CHECKING:
    from tempos_broker._batch import CReceipts
    from tempos_broker.journal.memory import Memory

#: Seconds that a slow path that closes, or goes by another route, waits for a link to take what was already
#: taken from publishers.
PATIENCE = 1.0
#: Seconds between two looks whether what waits of a topic has gone.
LOOK = 0.001


@dataclass(frozen=True, slots=True)
class ClassStatus:
    """A quality class on the slow path: what waits of how many that may, and what was lost unread.

    ``marking`` is what the kernel says is set, ``marking_reason`` what of it was not to be had.
    """

    queued: int
    queue: int
    overruns: int
    marking: Marking
    marking_reason: str


@dataclass(frozen=True, slots=True)
class SlowPathStatus:
    """``io`` is recvmmsg or portable, ``reason`` says why; ``listen`` holds "ip:port" texts.

    ``receive_buffer``: bytes the kernel gave each socket (0 while closed). ``received``: datagrams since
    the start, ``queued``: those that wait now. ``sockets``: how the classes are told apart at the sockets,
    and why so. ``share_bq``: percent of the sending that best effort gets while SQ waits.
    """

    adapter: str
    io: str
    reason: str
    listen: tuple[str, ...]
    receive_buffer: int
    received: int
    queued: int
    sockets: str
    sockets_reason: str
    share_bq: int
    classes: Mapping[Quality, ClassStatus]


class SlowPathServer:
    """Receives events on the data port and hands each to one member of every group of its topic."""

    def __init__(
        self,
        *,
        topics: Sequence[Topic],
        listen: Sequence[str],
        port: int,
        limits: Limits,
        tickets: Tickets,
        portable: bool = False,
        quality: QualityConfig | None = None,
        rates: RateLimits | None = None,
        select: Select | None = None,
        book: Book | None = None,
        adapter: str = UDP,
        descriptors: Sequence[tuple[int, int]] = (),
        receipts: CReceipts | None = None,
        returns: Returns | None = None,
        journals: Journals | None = None,
        measures: Measures | None = None,
        serves: Collection[Quality] = tuple(Quality),
    ) -> None:
        """``listen``: IPv4 addresses; ``portable`` asks for the I/O that needs no compiled helper.

        ``rates``: the topics' token buckets; the caller configures them. ``select``: the fast path's way to
        tell the classes apart at the sockets. ``book``: where to keep the account. ``adapter``: a name that
        :func:`~tempos_broker.slowpath.adapters.find` knows. ``descriptors``: of sockets that another
        process opened. ``receipts``, ``returns``, ``journals``, ``measures``: see
        :class:`~tempos_broker.slowpath.adapter.Setting`.
        ``serves``: the classes to receive of at first; :meth:`serve` changes it.
        """
        quality = quality or QualityConfig()
        self._quality = quality
        self._limits = limits
        self._core: SlowPath[Any] = SlowPath(topics, tickets, limits.queue_sq, limits.queue_bq, book, rates)
        self._losses = Losses(self._core, time.monotonic)
        self._name = adapter
        self._adapter = find(adapter)(
            self._core,
            self._losses,
            Setting(
                topics=tuple(topics),
                listen=tuple(listen),
                port=port,
                limits=limits,
                sockets=quality.sockets,
                select=select,
                portable=portable,
                descriptors=tuple(descriptors),
                receipts=receipts,
                returns=returns,
                journals=Journals() if journals is None else journals,
                measures=measures,
            ),
        )
        self._measures = measures
        self._turns = Turns(self._core, self._adapter, limits.batch, quality.share_bq)
        #: By class, how often its channel had let go when it was waited for in vain.
        self._stuck: dict[Quality, int] = {}
        self._serves = frozenset(serves)
        self._turns.strict_here = Quality.SQ in self._serves
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened = False
        self._again = False
        self._woken = asyncio.Event()

    async def open(self) -> None:
        """Open the channels, where what comes waits; :class:`tempos.Unavailable` says which cannot be had."""
        self._opened = True
        try:
            await self._adapter.connect(self._wake)
            for quality in Quality:
                marking = Marking(self._quality.dscp(quality), self._quality.so_priority(quality))
                self._adapter.set_quality(quality, marking)
        except BaseException:
            await self.close()
            raise

    async def start(self) -> None:
        """Begin to serve, opening the channels first if they are not yet; raises as :meth:`open` does."""
        if not self._opened:
            await self.open()
        self._loop = asyncio.get_running_loop()
        self._adapter.watch(self._serves)

    def serve(self, qualities: Collection[Quality], *, beside: bool = False) -> None:
        """Receive of these classes from now on, and of no other: another process may then do that.

        ``beside``: it has no CPU but ours.
        """
        self._serves = frozenset(qualities)
        self._turns.strict_here = Quality.SQ in self._serves
        self._turns.strict_beside = beside
        if self._loop is not None:
            self._adapter.watch(self._serves)

    def descriptors(self) -> Sequence[tuple[int, int]]:
        """What another process needs to serve a class instead: strict and best effort, by listen address.

        Empty where the classes have no channels of their own.
        """
        return self._adapter.descriptors()

    def change(self, drop: Collection[int] = (), put: Sequence[Topic] = ()) -> None:
        """Serve some topics no more, then others, too, or by their present options; all else is as it is.

        Routes come with :meth:`swap`.
        """
        self._adapter.change(drop, put)
        for topic in drop:
            self._core.drop(topic)
            if self._measures is not None:
                self._measures.forget(topic)
        for each in put:
            self._core.put(each)

    def listen(self, topics: Sequence[Topic]) -> None:
        """Have the ports of topics that are about to be served; raises :class:`tempos.Unavailable`."""
        self._adapter.listen(topics)

    def let_go(self, topics: Sequence[Topic]) -> None:
        """Let go of those of topics that are not served after all."""
        self._adapter.let_go(topics)

    def swap(self, route: Route) -> None:
        """Make ``route`` the route of its topic, also for what already waits; before or after the start.

        The tickets of the new epoch are the caller's to reset: both paths draw from them.
        """
        self._adapter.swap(route)
        self._core.swap(route)

    async def sent(self) -> None:
        """Return once that has left for which tickets were drawn before: a full channel may hold some of it.

        One that lets go of nothing within ``PATIENCE`` seconds is waited for no more until it does.
        """
        emptied = self._turns.emptied
        before = {quality: emptied[quality] for quality in self._turns.holding}
        before = {quality: at for quality, at in before.items() if self._stuck.get(quality) != at}
        end = time.monotonic() + PATIENCE
        while waiting := [quality for quality, at in before.items() if emptied[quality] == at]:
            if time.monotonic() >= end:
                self._stuck.update({quality: before[quality] for quality in waiting})
                return
            await asyncio.sleep(LOOK)

    def leave_out(self, towards: frozenset[Towards]) -> None:
        """Send nothing to members there from now on; what they are ticketed is lost to them, and counted."""
        self._adapter.leave_out(towards)

    def make_room(self, more: int, on_full: Callable[[], None]) -> None:
        """Let so many bytes more wait in the kernel than usual; ``on_full``: a channel takes no more."""
        self._adapter.make_room(more, on_full)

    def counters(self, topics: Collection[int] | None = None) -> Mapping[int, Mapping[Reason, int]]:
        """Datagrams by topic and reason since the start; :mod:`..core` says how they add up.

        Of these topics only, or of all. What is lost in front of the sockets is of topic 0, which is none.
        """
        if topics is None or 0 in topics:
            self._adapter.count_overruns()
        return self._core.counters(topics)

    def lost(self, topic: int, epoch: int, group: int) -> int:
        """Events of the group with this index in the route that could not be sent; two epochs are kept."""
        return self._core.lost(topic, epoch, group)

    def measured(self, topic: int) -> Measured | None:
        """What was measured of a topic; None where nothing came, or nothing is measured."""
        return None if self._measures is None else self._measures.of(topic)

    async def served(self, topic: int) -> None:
        """Return once everything of a topic that had reached this machine's sockets has gone its way."""
        if self._loop is None:
            return
        # What comes now comes after: what lay there before is read when no turn is due any more.
        await asyncio.sleep(LOOK)
        while self._again:
            await asyncio.sleep(LOOK)
        taken = self._core.taken(topic)
        while self._core.settled(topic) < taken:
            await asyncio.sleep(LOOK)

    def status(self) -> SlowPathStatus:
        # After a burst that was the last there is no turn that counts what it lost.
        self._adapter.count_overruns()
        adapter = self._adapter.status()
        return SlowPathStatus(
            adapter=self._name,
            io=adapter.io,
            reason=adapter.reason,
            listen=adapter.listen,
            receive_buffer=adapter.receive_buffer,
            received=self._core.received,
            queued=self._core.queued,
            sockets=adapter.apart,
            sockets_reason=adapter.apart_reason,
            share_bq=self._quality.share_bq,
            classes={quality: self._class_status(quality, adapter) for quality in Quality},
        )

    def say(self, datagram: bytes, endpoint: tuple[str, int], via: str | None) -> int:
        """See :meth:`.adapter.Adapter.say`."""
        return self._adapter.say(datagram, endpoint, via)

    def send_now(self, topic: int, payload: bytes, journal: Memory, left_out: frozenset[Towards]) -> bool:
        """Have one event go to one member of every group, before what waits; whether it went anywhere.

        What a link does not take is lost to that group, as ever; the journal has it.
        """
        drawn, size = self._core.draw_now(topic), len(payload)
        if self._measures is not None:
            self._measures.add(topic, arrived=size, forwarded=size if drawn else 0)
        if drawn is None:
            return False
        route, tickets = drawn
        journal.put(route.epoch & 0xFFFFFFFF, tickets, payload)
        for index, (group, ticket) in enumerate(zip(route.groups, tickets, strict=True)):
            sequence, place = divmod(ticket, len(group.members))
            member = group.members[place]
            copy = bytearray(payload)
            stamp(copy, route.epoch, sequence)
            error = 0 if member.is_nobody else errno.EHOSTUNREACH
            if not member.is_nobody and (member.ip, member.source) not in left_out:
                error = self._adapter.say(bytes(copy), (member.ip, member.port), member.source)
            if error:
                self._losses.send_failed(topic, route.epoch, index, 1, error)
        return True

    def is_waiting(self, topic: int) -> bool:
        """Whether something of a topic has come that has not gone on."""
        return self._core.settled(topic) < self._core.taken(topic)

    def shut(self) -> None:
        """Let nothing in any more, whoever reads the channels; what has come is served, till the end."""
        self._adapter.shut()

    async def close(self) -> None:
        """Serve what has come, then release the sockets; safe to call twice.

        What does not go within ``PATIENCE`` seconds is lost to its groups, and in the account as that.
        """
        if self._loop is not None:
            ends = self._adapter.shut()
            self._adapter.watch(self._serves)
            with contextlib.suppress(asyncio.TimeoutError):
                await in_time(self._drained(), PATIENCE)
            self._give_up(ends)
            self._adapter.watch(())
            self._loop = None
        await self._adapter.close()

    def _wake(self) -> None:
        self._woken.set()
        # A turn is due already, then this one would be one too many before control has its own.
        if not self._again:
            self._turn()

    def _turn(self) -> None:
        self._again = False
        if self._loop is None:
            return
        if self._turns.turn():
            self._again = True
            self._loop.call_soon(self._turn)
            # A buffer overruns when there is more than one turn can take.
            self._adapter.count_overruns()

    async def _drained(self) -> None:
        while True:
            self._woken.clear()
            if self._turns.turn():
                await asyncio.sleep(0)
            elif not self._turns.idle:
                await self._woken.wait()
            elif not self._receive_rest():
                return

    def _receive_rest(self) -> int:
        """Have what still lies in the channels wait here, or be refused for want of room; how many."""
        batch = self._limits.batch
        return sum(self._adapter.receive(quality, batch) for quality in Quality)

    def _give_up(self, ends: bool) -> None:
        """Book what has come and not gone as lost to its groups. ``ends``: nothing comes any more."""
        while self._receive_rest() and ends:
            pass
        core, batch = self._core, self._limits.batch
        while (delivery := core.next_strict(batch) or core.next_best_effort(batch)) is not None:
            route = delivery.route
            for group in range(len(route.groups)):
                self._losses.send_failed(route.topic.id, route.epoch, group, delivery.count, errno.ETIMEDOUT)
            delivery.load.release()

    def _class_status(self, quality: Quality, adapter: AdapterStatus) -> ClassStatus:
        marked = adapter.marked.get(quality)
        return ClassStatus(
            queued=self._core.waiting(quality),
            queue=self._limits.queue_sq if quality is Quality.SQ else self._limits.queue_bq,
            overruns=self._losses.overrun[quality],
            marking=marked.marking if marked else Marking(),
            marking_reason=marked.reason if marked else "",
        )
