"""Where a function in Python gets its calls from: the invoker, or in its turn the socket of a step.

See :mod:`tempos_invoker.workers.reading`. What is received in a turn lies where the invoker finds it, too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from tempos import wire
from tempos_invoker.workers import frames
from tempos_invoker.workers.frames import Answer, Call

_DESCRIPTORS = 3
#: What a process that the function forks off is not to keep.
_lent: set[int] = set()


def can_read() -> bool:
    """Whether there is what a turn takes."""
    return importlib.util.find_spec("tempos_invoker._functions") is not None


class Incoming:
    """The calls that come by ``sock``, and by what is lent, until the other end closes."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._turn: _Turn | None = None

    def __iter__(self) -> Iterator[Call]:
        recv = self._sock.recv
        while True:
            if self._turn is not None:
                yield from self._turn
            message = recv(frames.MESSAGE)
            if not message:
                return
            for call in frames.calls(message):
                if call.flags & frames.TURN:
                    self._change(call)
                else:
                    yield call

    def _change(self, call: Call) -> None:
        before, self._turn = self._turn, None
        if before is not None:
            before.close()
        if call.body:
            _, descriptors, _, _ = socket.recv_fds(self._sock, 1, _DESCRIPTORS)
            # Where there is no room for it, it is over at once.
            with contextlib.suppress(OSError):
                self._turn = _Turn(call, self._sock, descriptors)
        if self._turn is None:
            self._sock.send(Answer(call.ticket, frames.OVER, b"").encode())


class _Turn:
    """Calls from a data socket, as long as nothing else comes. Raises :class:`OSError`."""

    def __init__(self, call: Call, sock: socket.socket, descriptors: Sequence[int]) -> None:
        from tempos_invoker.worker.native import compiled

        told = json.loads(call.body)
        self._first, self._place = int(told["first"]), int(told["place"])
        self._flags = frames.QUIET if told["quiet"] else 0
        with ExitStack() as undo:
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
                undo.callback(_close, descriptor)
                _lent.add(descriptor)
            data, memory, alarm = descriptors
            self._ffi, lib = compiled()
            direct = lib.tempos_direct_map(memory)
            if direct == self._ffi.NULL:
                raise OSError("no room for datagrams")
            undo.callback(lib.tempos_direct_unmap, direct)
            reader = lib.tempos_reader_new(direct, call.ticket, told["topic"], data, sock.fileno(), alarm)
            if reader == self._ffi.NULL:
                raise OSError("no room for a reader")
            undo.callback(lib.tempos_reader_close, reader)
            self.close = undo.pop_all().close
        self._reader, self._next = reader, lib.tempos_reader_next
        self._found: Any = self._ffi.new("struct tempos_datagram *")

    def __iter__(self) -> Iterator[Call]:
        following, reader, found = self._next, self._reader, self._found
        buffer, header = self._ffi.buffer, wire.HEADER_LEN
        first, place, flags = self._first, self._place, self._flags
        while code := following(reader, found):
            if code < 0:
                raise OSError(-code, os.strerror(-code))
            body = buffer(found.data, found.length)[header:]
            yield frames.new_call(Call, (
                first + found.number, body, found.publisher, found.sequence, found.sent_ns, 0, 1, place,
                flags,
            ))  # fmt: skip


def _close(descriptor: int) -> None:
    _lent.discard(descriptor)
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _close_all() -> None:
    for descriptor in list(_lent):
        _close(descriptor)


os.register_at_fork(after_in_child=_close_all)
