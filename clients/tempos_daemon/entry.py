"""The command ``tempos`` from its first moment, before anything that takes long is imported.

SIGHUP ends a process by default. To a daemon it means: read the configuration again; so until it has read it
once, nothing. SIGINT ends it like SIGTERM while it is imported, without a traceback of where it just was.
What remains is Python's own start, some 20 ms, in which nobody of ours can say so.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

#: Commands that go by a configuration until they are told to stop.
DAEMONS = frozenset({"broker", "trigger", "invoker", "up"})


def main() -> int:
    """Run the command that the command line names; gives its exit code."""
    daemon = bool(DAEMONS.intersection(sys.argv[1:2]))
    interrupted = end_quietly()
    if daemon:
        wait_for_configuration()
    from tempos.cli import main

    if not daemon:
        signal.signal(signal.SIGINT, interrupted)
    code = main()
    if daemon:
        leave(code)
    return code


def leave(code: int) -> NoReturn:
    """End this process at once, with nothing left to do but to say the last word.

    Python takes all apart that it has imported, a third of a second for a broker, in which the next one waits
    for this one's end: to who publishes, a longer gap than a kill makes.
    """
    # Not before the first thing that this module is for.
    import contextlib
    import logging

    logging.shutdown()
    # Who was started without them has none.
    for stream in filter(None, (sys.stdout, sys.stderr)):
        # Whoever read it may be gone.
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def wait_for_configuration() -> None:
    """Take no notice of SIGHUP, and end at SIGINT, until the daemon says what it does."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end_quietly()


def end_quietly() -> Any:
    """End at SIGINT without a word, unless it is ignored; gives what was done at it before."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return before
