"""The memory of a worker that reads a data socket itself, and of its invoker (`clients/native/direct.h`).

What left the socket lies there, whenever the worker is killed. What is read here another process has written:
it is checked.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from dataclasses import dataclass
from typing import Any

from tempos import Event, _abi, wire

#: The most datagrams of a turn: tickets are kept free for them.
MOST = 1 << 31


class Broken(Exception):
    """The worker has written what cannot be there."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """One that came. ``called``: the worker carries it out, as call ``number`` of the turn."""

    content: bytes
    received_ns: int
    called: bool
    number: int

    def event(self, topic: int, name: str) -> Event:
        """The event in it, of which the subscriber knows nothing any more."""
        head = _abi.EVENT_HEADER.unpack_from(self.content)
        _, _, _, epoch, publisher, sequence, delivery, sent_ns = head
        body = self.content[wire.HEADER_LEN :]
        return Event(name, topic, body, publisher, sequence, delivery, epoch, sent_ns, self.received_ns, 0)


@dataclass(frozen=True, slots=True)
class Run:
    """Events of one publisher and epoch, each the next one of both; the numbers are the first one's."""

    count: int
    size: int
    publisher: int
    sequence: int
    delivery: int
    epoch: int


def compiled() -> tuple[Any, Any] | None:
    """``ffi`` and ``lib`` of the compiled part, if it is there."""
    try:
        module = importlib.import_module("tempos_invoker._functions")
    except ImportError:
        return None
    return module.ffi, module.lib


class Shared:
    """The memory of one worker, and the alarm by which it wakes the invoker. Raises :class:`OSError`."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        self._ffi, self._lib = ffi, lib
        self.memory = os.memfd_create("tempos worker's datagrams", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.memory, lib.tempos_direct_size())
            self._direct = lib.tempos_direct_map(self.memory)
            if self._direct == ffi.NULL:
                raise OSError("no room for a worker's datagrams")
        except BaseException:
            os.close(self.memory)
            raise
        self.alarm = lib.tempos_direct_alarm()
        if self.alarm < 0:
            os.close(self.memory)
            lib.tempos_direct_unmap(self._direct)
            raise OSError(-self.alarm, os.strerror(-self.alarm))
        self._found, self._run = ffi.new("struct tempos_datagram *"), ffi.new("struct tempos_run *")
        self._taken = self._first = 0

    @property
    def news(self) -> bool:
        """Whether something has come that was not taken."""
        return bool(self._direct.received != self._taken)

    def give(self, turn: int) -> None:
        """The worker may receive in this turn, once it is told."""
        self._first = self._taken
        self._lib.tempos_direct_turn(self._direct, turn)

    def end(self) -> None:
        """The worker is to begin receiving no more."""
        self._lib.tempos_direct_turn(self._direct, 0)

    @property
    def receives(self) -> bool:
        """Whether the worker may be receiving one more just now."""
        return bool(self._lib.tempos_direct_receives(self._direct))

    def run(self, topic: int, called: int) -> Run | None:
        """The next events, of which call ``called`` of the turn is the last, if they make a run.

        They are taken by :meth:`skip`. Raises :class:`Broken`.
        """
        run, first = self._run, self._taken
        end = min(self._first + called + 1, self._direct.received)
        count = self._lib.tempos_direct_run(self._direct, first, end, topic, run) if first < end else 0
        if count < 0:
            raise Broken
        return Run(count, run.bytes, run.publisher, run.sequence, run.delivery, run.epoch) if count else None

    def skip(self, count: int) -> None:
        """So many are taken."""
        self._taken += count
        self._lib.tempos_direct_take(self._direct, self._taken)

    def take(self, *, gone: bool = False) -> list[Datagram]:
        """What has come since the last time; ``gone``: the worker is. Raises :class:`Broken`."""
        found = self._found
        received = self._direct.received
        if not 0 <= received - self._taken <= self._lib.TEMPOS_DIRECT_SLOTS:
            raise Broken
        datagrams = [self._look(number) for number in range(self._taken, received)]
        self._taken = received
        if gone and self.receives:
            pending = self._look(received, pending=True)
            if found.length:
                datagrams.append(pending)
        self._lib.tempos_direct_take(self._direct, received)
        return datagrams

    def _look(self, number: int, *, pending: bool = False) -> Datagram:
        found = self._found
        if self._lib.tempos_direct_look(self._direct, number, pending, found):
            raise Broken
        content = bytes(self._ffi.buffer(found.data, found.length))
        return Datagram(content, found.received_ns, bool(found.called), number - self._first)

    @property
    def count(self) -> int:
        """Datagrams of this turn."""
        return self._taken - self._first

    def silence(self) -> None:
        """The alarm has rung."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.alarm, 8)

    def close(self) -> None:
        os.close(self.memory)
        os.close(self.alarm)
        self._lib.tempos_direct_unmap(self._direct)
        self._direct = self._ffi.NULL
