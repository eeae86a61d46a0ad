"""Typed façade over the compiled part of a worker (clients/native): what the ways that are not Python share.

A worker is prepared here and then stays inside :meth:`Native.serve`, without the interpreter's lock, until
the other end closes; it comes back only to have the name of a place read.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tempos_invoker.worker.unfit import Unfit
from tempos_invoker.workers.frames import Condition

#: Longest text of why something cannot be had.
_WHY = 2048
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Once:
    """What one call came to. ``ready_ns``: when the function's own code could begin; all CLOCK_MONOTONIC."""

    condition: Condition
    output: bytes
    started_ns: int
    ready_ns: int
    ended_ns: int
    nothing: bool


def compiled() -> tuple[Any, Any]:
    """``ffi`` and ``lib`` of the compiled part; raises :class:`Unfit` saying how to get it."""
    try:
        module = importlib.import_module("tempos_invoker._functions")
    except ImportError as error:
        raise Unfit(
            "the invoker's compiled part is not there: install gcc and python3-dev, then tempos[invoker] anew"
        ) from error
    return module.ffi, module.lib


class Native:
    """A worker. ``timeout``: seconds for each call; ``output``: bytes to give, 0: what a message holds."""

    def __init__(self, timeout: float, output: int) -> None:
        self.ffi, self.lib = compiled()
        worker = self.lib.tempos_worker_new(int(timeout * _NS), output)
        if worker == self.ffi.NULL:
            raise MemoryError
        self.worker = self.ffi.gc(worker, self.lib.tempos_worker_close)
        self._kept: list[Any] = []

    def keep(self, value: Any) -> Any:
        """Have memory of cffi live as long as the worker."""
        self._kept.append(value)
        return value

    def text(self, value: str | os.PathLike[str]) -> Any:
        """A C string that lives as long as the worker."""
        return self.keep(self.ffi.new("char[]", os.fsencode(value)))

    def texts(self, values: Iterable[str]) -> Any:
        """An array of C strings that ends with NULL."""
        pointers = [*map(self.text, values), self.ffi.NULL]
        return self.keep(self.ffi.new("char *[]", pointers))

    def have(self, function: Callable[..., int], *arguments: Any) -> None:
        """Call what tells why it cannot; raises :class:`Unfit` with that."""
        why = self.ffi.new("char[]", _WHY)
        if function(self.worker, *arguments, why, _WHY):
            raise Unfit(self.ffi.string(why).decode(errors="replace"))

    def once(self, body: bytes) -> Once:
        """Call the function for nothing."""
        once = self.ffi.new("struct tempos_once *")
        code = self.lib.tempos_worker_once(self.worker, body, len(body), once)
        if code < 0:
            raise OSError(-code, os.strerror(-code))
        return Once(
            Condition(once.condition),
            bytes(self.ffi.buffer(once.output, once.length)),
            once.started_ns,
            once.ready_ns,
            once.ended_ns,
            bool(once.flags & self.lib.TEMPOS_ANSWER_NOTHING),
        )

    def warm(self, body: bytes) -> None:
        """Call it once, so that all is loaded for the first event; raises :class:`Unfit` if that fails."""
        done = self.once(body)
        if done.condition != Condition.SUCCEEDED:
            name = done.condition.name.lower().replace("_", " ")
            raise Unfit(f"the warm-up ended with {name}: {done.output.decode(errors='replace')}")

    def serve(self, sock: socket.socket) -> None:
        """Answer calls until the other end closes."""
        told = self.ffi.new("struct tempos_place *")
        while code := self.lib.tempos_worker_serve(self.worker, sock.fileno(), told):
            if code < 0:
                raise OSError(-code, os.strerror(-code))
            place = json.loads(bytes(self.ffi.buffer(told.text, told.length)))
            names = (place[key].encode() for key in ("topic", "workflow", "step"))
            code = self.lib.tempos_worker_place(self.worker, told.number, *names)
            if code < 0:
                raise OSError(-code, os.strerror(-code))
