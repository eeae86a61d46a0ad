"""The process of a worker, as its broker starts it: ``python -m tempos_broker.worker`` and four arguments.

Those are the descriptors of the stream to the broker and of the socket that descriptors come by, the broker's
process, and the level of the log.

Rules: it never outlives its broker, not even by the time it takes to notice; it has no privileges; signals
that are sent to everybody are the broker's business.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys

from tempos_broker import privileges
from tempos_daemon import logs

#: <linux/prctl.h>
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve until told otherwise; 1: the broker was gone already."""
    stream, beside, broker = map(int, sys.argv[1:4])
    level = sys.argv[4]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    logs.configure(level, who="worker: ")
    privileges.drop()
    # After the change of privileges, some of which take it away again.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != broker:
        return 1
    from tempos_broker.worker.child import run

    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(run(stream, beside))
    finally:
        loop.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
