"""What a command prints arrives whole.

Two things take text away from a process without a word. With ``PYTHONUNBUFFERED``, which most images of
containers set, Python hands text to ``write(2)`` once and does not look how much of it was taken: a signal,
also a stop and a continue, cuts a long one short. And a standard output that somebody else has made
non-blocking takes what it has room for.

And where a process is started without one of its three standard files, what it opens first gets that number:
a socket is printed into then, and libuv ends the process where one is closed.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any


class Whole(io.FileIO):
    """A file whose :meth:`write` ends when all is written, or raises :class:`OSError`."""

    def write(self, data: Any, /) -> int:
        """Write all bytes of ``data``, however often it takes; gives their number."""
        with memoryview(data) as view, view.cast("B") as left:
            done = 0
            while done < len(left):
                written = super().write(left[done:])
                if written is None:
                    # Full, and not one to wait by itself.
                    select.select((), (self.fileno(),), ())
                else:
                    done += written
            return done


def make_whole() -> None:
    """Let the standard output and error of this process be :class:`Whole`; as buffered as they were.

    Those that are not there lead nowhere, for its children, too. To be called before anything is opened.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest number that is free: this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # Another kind: somebody catches what is printed.
        if type(stream) is io.TextIOWrapper and stream is getattr(sys, f"__{name}__"):
            whole = _rewritten(stream)
            setattr(sys, name, whole)
            setattr(sys, f"__{name}__", whole)


def _rewritten(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    how = {
        "encoding": stream.encoding,
        "errors": stream.errors,
        "line_buffering": stream.line_buffering,
        "write_through": stream.write_through,
    }
    buffered = isinstance(stream.buffer, io.BufferedWriter)
    raw = Whole(stream.fileno(), "wb", closefd=False)
    stream.detach()
    return io.TextIOWrapper(io.BufferedWriter(raw) if buffered else raw, **how)  # type: ignore[arg-type]
