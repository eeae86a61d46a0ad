"""Ring buffers: what programs hand up, record by record, in the order in which they did."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

from tempos_bpf.layouts import Layout
from tempos_bpf.library import check, ffi, lib
from tempos_bpf.maps import Map

#: Bytes that are taken out at once.
_ROOM = 1 << 18


class RingBuffer:
    """The one reader of a ring buffer whose records are all of one kind."""

    def __init__(self, ring: Map, layout: Layout) -> None:
        self.layout = layout
        self._name = ring.name
        self._room = max(_ROOM // layout.size, 1) * layout.size
        self._out = ffi.new("char[]", self._room)
        handle = ffi.new("struct tempos_ring **")
        check(lib.tempos_ring_open(ring.fd, layout.size, handle), f"cannot read the ring buffer {ring.name}")
        self._handle: Any = handle[0]

    @property
    def fd(self) -> int:
        """Readable when a program woke the reader."""
        return int(lib.tempos_ring_fd(self._handle))

    def read(self) -> Iterator[bytes]:
        """All records that are there now, for :attr:`layout`; some hundred kilobytes at a time."""
        while size := check(lib.tempos_ring_read(self._handle, self._out, self._room),
                            f"cannot read the ring buffer {self._name}"):  # fmt: skip
            yield ffi.buffer(self._out, size)[:]
            if size < self._room - self.layout.size:
                return

    def close(self) -> None:
        """Safe to call twice."""
        if self._handle is not None:
            lib.tempos_ring_close(self._handle)
            self._handle = None

    def __enter__(self) -> RingBuffer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()
