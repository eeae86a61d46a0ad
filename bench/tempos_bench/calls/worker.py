"""The function inside a worker of `tempos invoker`, with the recorder that every other subscriber has.

Nothing but function and recorder is in what is measured. Commands come by a stream socket, to whose path
the worker connects when it loads this (:data:`PATH` in its environment); a thread answers them, as
:mod:`tempos_bench.peers.library` does it on its standard input.
"""

from __future__ import annotations

import os
import socket
import threading

from tempos_bench.calls import event
from tempos_bench.peers.library import Recorder, serve, taker

#: Names the socket of who measures.
PATH = "TEMPOS_BENCH_RECORDER"

_recorder = Recorder(event.FORM)
_take = taker(_recorder, calls_function=True)


def call(body: bytes) -> bytes | None:
    """Call the function, then record that it has run."""
    return _take(body)


def _answer(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        with sock.makefile("r") as told, sock.makefile("w") as answers:
            serve(_recorder, told, answers)


if PATH in os.environ:
    threading.Thread(target=_answer, args=(os.environ[PATH],), name="commands", daemon=True).start()
