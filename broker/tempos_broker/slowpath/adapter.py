"""What the broker asks of its channels: the adapter Protocol.

An adapter brings events from publishers to the slow path's core and takes deliveries to members; UDP
sockets are the first. It decides nothing: :mod:`.turns` asks it for datagrams and gives it deliveries, class
by class, and the adapter says when asking is worth while by calling ``wake`` on the event loop.

:mod:`.adapters` knows which there are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tempos import Quality, Route, Topic
from tempos_broker.addresses import Towards
from tempos_broker.config.model import Limits
from tempos_broker.journal.journals import Journals
from tempos_broker.slowpath.core import Delivery, Load, SlowPath
from tempos_broker.slowpath.losses import Losses
from tempos_broker.slowpath.marking import Marked, Marking
from tempos_broker.slowpath.measures import Measures
from tempos_broker.slowpath.returns import Returns

if TYPE_CHECKING:
    from tempos_broker._batch import CReceipts

LoadT = TypeVar("LoadT", bound=Load)


@dataclass(frozen=True, slots=True)
class Setting:
    """What an adapter goes by; it takes what it needs.

    ``listen``: IPv4 addresses. ``sockets``: how to tell the classes apart, auto, ebpf, classic or one;
    ``select`` attaches the fast path's program for it, and raises :class:`Unavailable` where there is none.
    ``portable``: with nothing compiled. ``descriptors``: channels that another process opened, as
    :meth:`Adapter.descriptors` gave them; none are opened then. ``receipts``: memory of the compiled helper
    in which to leave, at any time, how many datagrams were taken out of the channels (``shared.Estate``).
    ``returns``: opens the addresses of those who asked, where an adapter sends replies on to them.
    ``journals``: where it writes what it forwards. ``measures``: what it measures; None: nothing.
    """

    topics: Sequence[Topic]
    listen: Sequence[str]
    port: int
    limits: Limits
    sockets: str = "auto"
    select: Callable[[int, int], None] | None = None
    portable: bool = False
    descriptors: Sequence[tuple[int, int]] = ()
    receipts: CReceipts | None = None
    returns: Returns | None = None
    journals: Journals = field(default_factory=Journals)
    measures: Measures | None = None


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """``io``: how datagrams are moved, ``reason`` says why so. ``listen``: "ip:port" texts.

    ``receive_buffer``: bytes the kernel gave each channel (0 while closed). ``apart``: how the classes are
    told apart before the broker reads (ebpf, classic, one), ``apart_reason`` why so. ``marked``: what is set
    of each class.
    """

    io: str
    reason: str
    listen: tuple[str, ...]
    receive_buffer: int
    apart: str
    apart_reason: str
    marked: Mapping[Quality, Marked]


class Channels(Protocol[LoadT]):
    """The part of an adapter that moves datagrams. Nothing here raises for what the network does."""

    @property
    def apart(self) -> bool:
        """Whether each class has a channel of its own; else SQ's brings both."""
        ...

    def receive(self, quality: Quality, limit: int) -> int:
        """Hand what has come by the channels of a class to the core, at most ``limit`` from each.

        Gives how many; ``limit`` or more say that there may be more.
        """
        ...

    def send(self, quality: Quality, delivery: Delivery[LoadT]) -> bool:
        """Take over a delivery of a class, which goes with the next :meth:`flush`.

        True: a batch is gathered, and must be flushed before the next delivery of the class.
        """
        ...

    def flush(self, quality: Quality, most: int | None = None) -> int | None:
        """Send what was gathered of a class, or of that what takes as long as some ``most`` copies.

        Gives how many copies are left. None: the channel takes no more now, and no delivery of the class may
        be offered until a flush gives a number; ``wake`` tells when to try.
        """
        ...


class Adapter(Channels[LoadT], Protocol[LoadT]):
    """A kind of channel, of which a slow path has one."""

    def change(self, drop: Collection[int], put: Sequence[Topic]) -> None:
        """Some topics less, then some more, or of another class or framing; all others as they are."""
        ...

    def listen(self, topics: Sequence[Topic]) -> None:
        """Have the ports of foreign topics that are about to be served, all or none more than before.

        Nothing is received there until :meth:`change`. Raises :class:`Unavailable`.
        """
        ...

    def let_go(self, topics: Sequence[Topic]) -> None:
        """Let go of ports that :meth:`listen` opened for topics that are not served after all."""
        ...

    def swap(self, route: Route) -> None:
        """Make ready to send to the members of ``route``; before it is connected or after."""
        ...

    def leave_out(self, towards: frozenset[Towards]) -> None:
        """Send nothing to members there from now on; what is for them is lost, and booked as that."""
        ...

    def make_room(self, more: int, on_full: Callable[[], None]) -> None:
        """Let so many bytes more than usual wait in the kernel to be sent, for each channel.

        ``on_full`` is called when a channel takes no more.
        """
        ...

    async def connect(self, wake: Callable[[], None]) -> None:
        """Open the channels; raises :class:`Unavailable` if they cannot be had.

        ``wake`` is called, on the event loop, when something can be received on a watched channel, or sent
        again.
        """
        ...

    def set_quality(self, quality: Quality, marking: Marking) -> Marked:
        """Mark what leaves of a class, as far as it can be; says what is set."""
        ...

    def watch(self, qualities: Collection[Quality]) -> None:
        """Receive by the channels of these classes from now on, and of no others."""
        ...

    def say(self, datagram: bytes, endpoint: tuple[str, int], via: str | None) -> int:
        """Send a datagram of the broker's own from the data port of ``via``, now or never; 0 or the errno."""
        ...

    def count_overruns(self) -> None:
        """Book what was lost in front of the channels since the last call."""
        ...

    def shut(self) -> bool:
        """Let nothing in any more; what has come can still be received, until :meth:`close`.

        What is turned away is told. False: it cannot be had, and more may come. May be called again.
        """
        ...

    def descriptors(self) -> Sequence[tuple[int, int]]:
        """What another process needs to serve the same channels: strict and best effort of each address.

        Empty where they cannot be handed over, or bring both classes together.
        """
        ...

    def status(self) -> AdapterStatus: ...

    async def close(self) -> None:
        """Let go of the channels; what was gathered and cannot be sent at once is booked as lost."""
        ...


class Factory(Protocol):
    """Makes an adapter that is not connected yet."""

    def __call__(self, core: SlowPath[Any], losses: Losses, setting: Setting) -> Adapter[Any]: ...
