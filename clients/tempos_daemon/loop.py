"""The event loop that a daemon serves on: uvloop's, or asyncio's own where that is not installed."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tempos_daemon import watchdog
from tempos_daemon.signals import STOP_WITHIN, Signals

log = logging.getLogger("tempos.daemon")

#: Seconds.
THREADS_MORE = 0.5


def run(serving: Coroutine[Any, Any, None], signals: Signals) -> None:
    """Run it to its end. Nothing that comes after that, a thread that waits for a disk, keeps the process.

    Of what threads are doing by then nobody waits for the outcome: they have a moment to come to an end.
    """
    threads = ThreadPoolExecutor(thread_name_prefix="asyncio")
    try:
        import uvloop
    except ImportError:
        log.info("uvloop is not installed: asyncio's own event loop serves")
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        loop.set_default_executor(threads)
        watchdog.begin(loop)
        loop.run_until_complete(serving)
    finally:
        signals.last_resort.arm(STOP_WITHIN)
        ending = threading.Thread(target=threads.shutdown, name="let threads end", daemon=True)
        ending.start()
        ending.join(THREADS_MORE)
        signals.ignore(loop)
        asyncio.set_event_loop(None)
        loop.close()
