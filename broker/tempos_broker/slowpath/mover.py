"""What moves datagrams between UDP sockets and a core: batches in compiled code, or one by one in Python.

Two make this: :class:`~tempos_broker.slowpath.batched.Batch` and
:class:`~tempos_broker.slowpath.portable.Singly`. Neither knows the event loop; the adapter that has one of
them says when.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

from tempos import Quality, Route, Topic
from tempos_broker.addresses import Towards
from tempos_broker.slowpath.core import Delivery, Load
from tempos_broker.slowpath.sockets import DataSocket

LoadT = TypeVar("LoadT", bound=Load)


class SendFailure(NamedTuple):
    """So many copies for one group that the kernel refused; ``epoch`` is its low byte.

    ``ip``, ``port``, ``size``: of the last of them, whom it was for, and bytes of payload; "" where that is
    not known.
    """

    topic: int
    epoch: int
    group: int
    copies: int
    error: int
    ip: str = ""
    port: int = 0
    size: int = 0


class Flushed(NamedTuple):
    """What did not go: how many copies are left, and what is lost.

    ``blocked_by``: the descriptor that must become writable before the rest can go; None if nothing is in
    its way.
    """

    left: int
    blocked_by: int | None
    failures: Sequence[SendFailure]


class Mover(Protocol[LoadT]):
    """``reason`` says in words for people how it moves them now."""

    @property
    def name(self) -> str: ...

    @property
    def reason(self) -> str: ...

    def put(self, topic: Topic) -> None:
        """Demand of the datagrams of a topic what its framing says."""
        ...

    def drop(self, topic: int) -> None:
        """A topic is no more."""
        ...

    def swap(self, route: Route) -> None:
        """Address what is staged from now on to these members; the topic says whose events are taken."""
        ...

    def leave_out(self, towards: frozenset[Towards]) -> None:
        """Send nothing to members there from now on: what is for them fails as EHOSTUNREACH."""
        ...

    def channels(self, quality: Quality, sockets: Sequence[DataSocket], tos: int | None) -> None:
        """What a class sends by: a member's events leave by the socket that has its source.

        That is the one bound to it, or one bound to every address; the first where there is none such.
        ``tos``: the byte to write into each datagram; None: what the socket has holds.
        """
        ...

    def raw(self, sock: socket.socket | None) -> None:
        """What datagrams leave by that keep the source of who sent them (:mod:`.raw`)."""
        ...

    def raw_tos(self, quality: Quality, tos: int) -> None:
        """That byte of the IPv4 header of these, of a class."""
        ...

    def receive(self, source: DataSocket, limit: int) -> int:
        """Hand at most ``limit`` datagrams to the core; how many there were. Raises :class:`OSError`."""
        ...

    def stage(self, quality: Quality, delivery: Delivery[LoadT]) -> bool:
        """Take over a delivery; True once a batch of the class is gathered, which then must be flushed."""
        ...

    def flush(self, quality: Quality, most: int | None = None) -> Flushed | None:
        """Send what is staged of a class, or some ``most`` copies of it: None if all of it is gone."""
        ...

    def abandon(self, quality: Quality, error: int) -> Sequence[SendFailure]:
        """Give up what is staged of a class; the failures carry this errno."""
        ...
