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


class Whole(io.BufferedWriter):
    """A file whose :meth:`write` and :meth:`flush` end when all is written, or raise :class:`OSError`.

    An interrupt may come between any two steps of Python. What the kernel has taken by then only the buffer
    knows, which is not written in Python: so nothing is printed twice. ``through``: nothing is kept back.
    """

    def __init__(self, raw: io.FileIO, *, through: bool) -> None:
        super().__init__(raw)
        self._through = through

    def write(self, data: Any, /) -> int:
        """Write all bytes of ``data``, however often it takes; gives their number."""
        with memoryview(data) as view, view.cast("B") as left:
            done = 0
            while done < len(left):
                try:
                    done += super().write(left[done:])
                except BlockingIOError as full:
                    done += full.characters_written
                    self._wait()
        if self._through:
            self.flush()
        return done

    def flush(self) -> None:
        """Write what is kept back."""
        while True:
            try:
                return super().flush()
            except BlockingIOError:
                self._wait()

    def _wait(self) -> None:
        """Full, and not one to wait by itself."""
        select.select((), (self.fileno(),), ())


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
            whole = rewritten(stream)
            setattr(sys, name, whole)
            setattr(sys, f"__{name}__", whole)


def rewritten(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    how = {
        "encoding": stream.encoding,
        "errors": stream.errors,
        "line_buffering": stream.line_buffering,
        "write_through": stream.write_through,
    }
    through = not isinstance(stream.buffer, io.BufferedWriter)
    whole = Whole(io.FileIO(stream.fileno(), "wb", closefd=False), through=through)
    stream.detach()
    return io.TextIOWrapper(whole, **how)  # type: ignore[arg-type]
