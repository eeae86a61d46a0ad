"""A page of memory that invoker and worker both have: which call runs, and which was the last that is done.

An answer wakes the invoker up. Where nobody wants the output, a worker that has succeeded only notes it (see
:data:`.frames.QUIET`); calls are done in their order, so one number tells of all before it, and what is noted
stays when the worker is killed. A call that is answered all the same is noted as such once its answer has
left: whoever finds one noted as done behind it reads that answer first.

Each field has one writer, the worker. It writes a number last, when what belongs to it is there; a reader
takes the number first, so what it then reads belongs to this call or to a later one.
"""

from __future__ import annotations

import fcntl
import mmap
import os

#: Tickets of the call that runs and of the last that was noted; begin and end, CLOCK_MONOTONIC; the ticket of
#: the last that was answered.
BEGUN, BEGUN_NS, DONE, DONE_BEGUN_NS, DONE_NS, ANSWERED = range(6)
_SIZE = mmap.PAGESIZE
_HIGH = 16


def make() -> tuple[memoryview, int]:
    """A page of zeros as numbers of 64 bits, and a descriptor of it to hand on and close."""
    low = os.memfd_create("tempos worker's notes", os.MFD_CLOEXEC)
    try:
        os.ftruncate(low, _SIZE)
        # Never one of the numbers that a worker finds its own at.
        return take(low), fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    finally:
        os.close(low)


def take(descriptor: int) -> memoryview:
    """The page behind a descriptor; raises :class:`OSError`."""
    return memoryview(mmap.mmap(descriptor, _SIZE)).cast("Q")
