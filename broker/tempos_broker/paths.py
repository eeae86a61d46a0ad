"""What the broker asks of a fast path, and of the ticket counters and token buckets both paths draw from.

Small protocols, so that the broker imports no fast path: the composition root hands one in.
:class:`LocalTickets`, :class:`LocalLimits` and :class:`NoFastPath` are what serves where there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from tempos import FastPathStatus, Overflow, Path, PathChoice, Reason, Route, Topic, Unavailable
from tempos._abi import LIMIT_SHIFT
from tempos._slots import JournalLayout, epoch_row
from tempos.histogram import Latency
from tempos.model import Volume
from tempos_broker.addresses import Towards


class Tickets(Protocol):
    """The counters of one topic's groups, one set per epoch; two epochs live at a time."""

    def draw(self, topic: int, epoch: int, group: int, count: int, groups: int = 1) -> int:
        """Atomically take ``count`` tickets; returns the first. ``groups``: so many have them together."""
        ...

    def read(self, topic: int, epoch: int, group: int) -> int:
        """How many tickets were drawn so far."""
        ...

    def reset(self, topic: int, epoch: int) -> None:
        """Set all counters of an epoch that begins to 0."""
        ...


class RateLimits(Protocol):
    """The token buckets of the topics that have a rate; both paths take from the same.

    At most ``burst + rate * t`` datagrams of a topic are taken in any time t, over both paths. The rate of
    a topic whose overflow is ``pass`` is the fast path's alone: here all are taken.
    """

    def take(self, topic: int, count: int) -> int:
        """How many of ``count`` datagrams that came now may go on: the others are over the topic's rate."""
        ...


class ConfiguredLimits(RateLimits, Protocol):
    """Token buckets that whoever has them configures."""

    def configure(self, topics: Sequence[Topic]) -> None:
        """Go by the rates of these topics from now on. A bucket whose rate or burst changes begins full."""
        ...

    def put(self, topic: Topic) -> None:
        """The same of one topic; all others as they are."""
        ...

    def drop(self, topic: int) -> None:
        """A topic is no more; it has its row still."""
        ...


class Elsewhere(Protocol):
    """Where else than this life has them the counters of the former one may be.

    ``tickets``: None where they are not to be had. The others are final, and as they were counted.
    """

    @property
    def tickets(self) -> Tickets | None: ...

    def counters(self) -> Mapping[int, Mapping[Reason, int]]:
        """The fast path's: datagrams by topic and reason."""
        ...

    def lost(self, topic: int, epoch: int, groups: int) -> Sequence[int]:
        """Copies for each of so many groups that the kernel owed events of this epoch and could not send."""
        ...


class Former(Elsewhere, Protocol):
    """What an earlier broker of this name left in the kernel, where this one has no fast path."""

    def adopted(self) -> Mapping[int, int]:
        """Topic ids and epochs of its routes."""
        ...

    async def wind_up(self) -> None:
        """Take it out of the kernel; when this returns, no packet goes by it any more."""
        ...

    def close(self) -> None:
        """Let go of it: for good if it was wound up, else it goes on as it was. Safe to call twice."""
        ...


class KernelJournals(Protocol):
    """The memory of journals that the kernel writes, by topic id; descriptors are the caller's to close."""

    def journal(self, topic: int, layout: JournalLayout) -> int | None:
        """That of a topic, as large as its options say; None: the kernel has none."""
        ...

    def former_journals(self, topic: int) -> Sequence[tuple[int, JournalLayout]]:
        """Once: what earlier brokers left of a topic in other sizes, the latest first."""
        ...

    def followed(self, topic: int) -> None:
        """That of a topic has what fits of those before, which need not outlive this process any more."""
        ...


class FastPath(Protocol):
    """The kernel's side of the routes."""

    @property
    def inherited(self) -> bool:
        """Whether an earlier broker of this name left something that forwards, until it is taken off."""
        ...

    @property
    def former(self) -> Former | None:
        """What was taken out of the kernel, rather than taken over, by :meth:`take_over`."""
        ...

    def rows(self) -> Mapping[int, int]:
        """Of topics that an earlier broker left in force: the row of each in the tables of counters.

        Known once that was taken over; none where its tables are of no use.
        """
        ...

    async def take_over(self) -> None:
        """Put everything in the place of what an earlier broker left; once, before all that follows.

        Until then that goes on as if nobody had come: call it when nothing can keep the broker from starting
        any more. Never raises for what the network does.
        """
        ...

    @property
    def tickets(self) -> Tickets: ...

    @property
    def limits(self) -> RateLimits: ...

    def status(self) -> FastPathStatus: ...

    async def configure(self, topics: Sequence[Topic]) -> None:
        """Go by what holds of these topics whatever their routes: class, rate, burst, overflow.

        At the start before any route is installed, and at each reload; other topics are none from now on.
        Raises :class:`Unavailable` if the kernel refuses.
        """
        ...

    async def put(self, topic: Topic) -> None:
        """The same of one topic that is new or has changed; all others as they are."""
        ...

    async def drop(self, topic: int) -> None:
        """A topic is no more; it has its row still, and no route any more."""
        ...

    @property
    def journals(self) -> KernelJournals | None:
        """Journals that the kernel writes, by :meth:`configure` and :meth:`put`; None: it writes none."""
        ...

    def select(self, strict: int, best_effort: int) -> None:
        """Have the kernel choose between two sockets by the class of each datagram's topic.

        Both are descriptors of UDP sockets that are bound to one address with SO_REUSEPORT. What is no
        topic goes to ``best_effort``. Holds for as long as they are open; what :meth:`configure` says of
        a class is in force at once. Raises :class:`Unavailable` with the reason if it cannot be had.
        """
        ...

    async def install_all(self, routes: Sequence[Route]) -> Sequence[PathChoice]:
        """Make each the kernel's route of its topic, or remove it where the kernel cannot carry it.

        Each is of another topic. When this returns, no packet uses an older route of them any more. Never
        blocks the event loop and never raises for what the network does: the choices say what happened.
        """
        ...

    async def withdraw(self, topic: int) -> None:
        """Take the topic's route out of the kernel; its packets come up to the slow path."""
        ...

    async def withdraw_all(self) -> None:
        """The same of all topics, however many; nothing is installed any more."""
        ...

    def adopted(self) -> Mapping[int, int]:
        """Topic ids and epochs of the routes that a former broker of this name left in the kernel.

        Their tickets and counters go on. A topic is in it until it is installed or withdrawn.
        """
        ...

    def counters(self, topics: Iterable[int] | None = None) -> Mapping[int, Mapping[Reason, int]]:
        """Datagrams by topic and reason; topic 0 holds what had no topic yet.

        Counted since the start, or since that of the broker whose routes were adopted. Of ``topics``, or of
        all, also of those that nobody knows any more.
        """
        ...

    def lost(self, topic: int, epoch: int, groups: int) -> Sequence[int]:
        """Copies for each of so many groups that the kernel owed events of this epoch and could not send.

        Final once no packet uses the epoch's route; the two latest epochs are kept.
        """
        ...

    def drops(self) -> Mapping[str, Mapping[str, int]]:
        """Frames lost behind the redirect, by interface and error, as far as the kernel tells."""
        ...

    def volumes(self, topics: Iterable[int]) -> Mapping[int, Volume]:
        """Bytes of payload, by topic, where there are any; counted as :meth:`counters` are."""
        ...

    def latency(self, topics: Iterable[int]) -> Mapping[int, Latency]:
        """How long the kernel took for its events, by topic; none of those it has measured nothing of."""
        ...

    def measure_anew(self, topics: Iterable[int]) -> None:
        """What was measured so far where these topics stand, which have no route yet, is others'."""
        ...

    def leave_out(self, towards: frozenset[Towards]) -> None:
        """Carry routes without members there from now on, rather than none that have any.

        What these are ticketed is lost to them, and counted. Holds for what is installed after this.
        """
        ...

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the event loop when network facts changed: install the routes anew."""
        ...

    @property
    def outlives(self) -> bool:
        """Whether what is in force can go on without this process."""
        ...

    async def close(self, *, keep: bool = False) -> None:
        """Detach and release everything, or ``keep`` in force what outlives this process. Safe to call twice.

        Before :meth:`take_over`, what an earlier broker left goes on either way.
        """
        ...


class LocalTickets:
    """Ticket counters in this process."""

    def __init__(self) -> None:
        #: By topic and epoch, of each group.
        self._next: dict[int, dict[int, int]] = {}

    def draw(self, topic: int, epoch: int, group: int, count: int, groups: int = 1) -> int:
        drawn = self._next.setdefault(epoch_row(topic, epoch), {})
        first = drawn.get(group, 0)
        drawn[group] = first + count
        return first

    def read(self, topic: int, epoch: int, group: int) -> int:
        drawn = self._next.get(epoch_row(topic, epoch))
        return 0 if drawn is None else drawn.get(group, 0)

    def reset(self, topic: int, epoch: int) -> None:
        self._next.pop(epoch_row(topic, epoch), None)


class LocalLimits:
    """Token buckets in this process; fastpath/bpf/limit.h tells how they work. ``clock`` gives ns."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._limits: dict[int, tuple[int, int]] = {}
        self._due: dict[int, int] = {}

    def configure(self, topics: Sequence[Topic]) -> None:
        """Go by the rates of these topics from now on. A bucket whose rate or burst changes begins full."""
        old, self._limits = self._limits, {}
        for topic in topics:
            self._limit(topic)
        self._due = {topic: due for topic, due in self._due.items() if old[topic] == self._limits.get(topic)}

    def put(self, topic: Topic) -> None:
        """The same of one topic; all others as they are."""
        was = self._limits.pop(topic.id, None)
        self._limit(topic)
        if self._limits.get(topic.id) != was:
            self._due.pop(topic.id, None)

    def drop(self, topic: int) -> None:
        """A topic is no more."""
        self._limits.pop(topic, None)
        self._due.pop(topic, None)

    def _limit(self, topic: Topic) -> None:
        if topic.rate and topic.overflow is Overflow.DROP:
            interval = -(-(10**9 << LIMIT_SHIFT) // topic.rate)
            self._limits[topic.id] = (interval, (topic.bucket - 1) * interval)

    def take(self, topic: int, count: int) -> int:
        limit = self._limits.get(topic)
        if limit is None:
            return count
        interval, tolerance = limit
        now = self._clock() << LIMIT_SHIFT
        due = max(now, self._due.get(topic, now))
        granted = min(count, max(0, (now + tolerance - due) // interval + 1))
        self._due[topic] = due + granted * interval
        return granted


class TicketsAlone:
    """Counters of a former life that had no fast path: an :class:`Elsewhere`."""

    def __init__(self, tickets: Tickets) -> None:
        self.tickets: Tickets | None = tickets

    def counters(self) -> Mapping[int, Mapping[Reason, int]]:
        return {}

    def lost(self, topic: int, epoch: int, groups: int) -> Sequence[int]:
        return [0] * groups


class NoFastPath:
    """Stands in where the fast path is off or cannot be had; says why wherever it is asked."""

    def __init__(
        self,
        reason: str,
        tickets: Tickets | None = None,
        limits: ConfiguredLimits | None = None,
        former: Former | None = None,
    ) -> None:
        """``tickets``, ``limits``: where those of this process alone will not do.

        ``former``: what an earlier broker left, to be taken off.
        """
        self._reason = reason
        self._tickets: Tickets = LocalTickets() if tickets is None else tickets
        self._limits: ConfiguredLimits = LocalLimits() if limits is None else limits
        self.former = former
        self._wound_up = False
        self._adopted: dict[int, int] = {}
        self._choice = PathChoice(Path.SLOW, reason)

    @property
    def inherited(self) -> bool:
        return self.former is not None and not self._wound_up

    @property
    def tickets(self) -> Tickets:
        return self._tickets

    @property
    def limits(self) -> RateLimits:
        return self._limits

    def status(self) -> FastPathStatus:
        return FastPathStatus("none", self._reason)

    def rows(self) -> Mapping[int, int]:
        return {}

    async def take_over(self) -> None:
        if self.former is not None:
            self._adopted = dict(self.former.adopted())
            await self.former.wind_up()
            self._wound_up = True

    async def configure(self, topics: Sequence[Topic]) -> None:
        self._limits.configure(topics)

    async def put(self, topic: Topic) -> None:
        self._limits.put(topic)

    async def drop(self, topic: int) -> None:
        self._limits.drop(topic)

    @property
    def journals(self) -> KernelJournals | None:
        return None

    def select(self, strict: int, best_effort: int) -> None:
        # What went wrong in full stands with the fast path.
        raise Unavailable(self._reason.partition(":")[0])

    async def install_all(self, routes: Sequence[Route]) -> Sequence[PathChoice]:
        for route in routes:
            self._adopted.pop(route.topic.id, None)
        return [self._choice] * len(routes)

    async def withdraw(self, topic: int) -> None:
        self._adopted.pop(topic, None)

    async def withdraw_all(self) -> None:
        self._adopted.clear()

    def adopted(self) -> Mapping[int, int]:
        return MappingProxyType(self._adopted)

    def counters(self, topics: Iterable[int] | None = None) -> Mapping[int, Mapping[Reason, int]]:
        return {}

    def lost(self, topic: int, epoch: int, groups: int) -> Sequence[int]:
        return [0] * groups

    def drops(self) -> Mapping[str, Mapping[str, int]]:
        return {}

    def volumes(self, topics: Iterable[int]) -> Mapping[int, Volume]:
        return {}

    def latency(self, topics: Iterable[int]) -> Mapping[int, Latency]:
        return {}

    def measure_anew(self, topics: Iterable[int]) -> None:
        return

    def leave_out(self, towards: frozenset[Towards]) -> None:
        return

    def on_change(self, callback: Callable[[], None]) -> None:
        return

    @property
    def outlives(self) -> bool:
        return False

    async def close(self, *, keep: bool = False) -> None:
        if self.former is not None:
            self.former.close()
