"""The command ``tempos`` from its first moment, before anything that takes long is imported.

SIGHUP ends a process by default. To a daemon it means: read the configuration again; so until it has read it
once, nothing. What remains is Python's own start, some 20 ms, in which nobody of ours can say so.
"""

from __future__ import annotations

import signal
import sys

#: Commands that go by a configuration until they are told to stop.
DAEMONS = frozenset({"broker"})


def main() -> int:
    """Run the command that the command line names; gives its exit code."""
    if DAEMONS.intersection(sys.argv[1:2]):
        wait_for_configuration()
    from tempos.cli import main

    return main()


def wait_for_configuration() -> None:
    """Take no notice of SIGHUP until the daemon says what it does."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
