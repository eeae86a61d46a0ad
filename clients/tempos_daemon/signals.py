"""What signals mean to a daemon, from its first moment to its last.

    SIGTERM   stop, within ``STOP_WITHIN`` seconds whatever waits; a second one of these: within ``HURRY``
    SIGINT    the same, for somebody at a terminal: nobody is to go on with what was served
    SIGUSR2   the same, for a restart: whoever comes next goes on with it
    SIGHUP    read the configuration again; before all is ready that is kept for then, while stopping it
              means nothing

Never does one of them end the process by its default action once :meth:`Signals.hold` was called.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from tempos_daemon.last_resort import LastResort

log = logging.getLogger("tempos.daemon")

#: Seconds from the first signal to stop, and from the second, to the end of the process.
STOP_WITHIN, HURRY = 5.0, 1.0
#: Of these, seconds for what was still starting to be ready first: what stands can be taken down in order.
START_MORE = 1.0
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

_T = TypeVar("_T")


class Signals:
    """The signals of this process. ``last_resort`` ends it if stopping takes more than ``within`` seconds."""

    def __init__(self, last_resort: LastResort, within: float = STOP_WITHIN) -> None:
        self.last_resort = last_resort
        self._within = within
        self._stop: asyncio.Event | None = None
        self._heard = False
        #: The first signal that said to stop, once one has.
        self.stopped_by: signal.Signals | None = None
        self._reload: Callable[[], None] | None = None
        self._reload_asked = False

    @property
    def stopping(self) -> bool:
        """Whether a signal has said so."""
        return self._stop is not None and self._stop.is_set()

    def hold(self) -> None:
        """From here on SIGHUP is kept; those that stop end the process until :meth:`attach`."""
        signal.signal(signal.SIGHUP, lambda *_: self._on_reload())

    def attach(self) -> None:
        """Hear signals on the running event loop, until it is closed.

        Those that stop are heard wherever the loop is just then: the time that stopping may take begins with
        the signal, not with the loop's next turn.
        """
        loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()

        def heard(number: int, _: object) -> None:
            again, self._heard = self._heard, True
            self.last_resort.arm(HURRY if again else self._within)
            # Between two lines of anything: what takes locks, as logging does, is the loop's.
            loop.call_soon_threadsafe(self._on_stop, number)

        for number in _STOPS:
            # With a handler of the loop's beside it the loop wakes up for a signal, whichever loop it is.
            loop.add_signal_handler(number, int)
            signal.signal(number, heard)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)

    def reload_with(self, reload: Callable[[], None]) -> None:
        """What SIGHUP does from now on; at once if one has come already."""
        self._reload = reload
        if self._reload_asked and not self.stopping:
            self._reload_asked = False
            reload()

    async def wait(self) -> None:
        """Return when it is time to stop."""
        assert self._stop is not None, "attached before anybody waits"
        await self._stop.wait()

    async def unless_stopped(self, start: Coroutine[Any, Any, _T]) -> _T | None:
        """What ``start`` gives; None if it is time to stop: it then comes to its end, or is cancelled."""
        task = asyncio.get_running_loop().create_task(start, name="start")
        stop = asyncio.get_running_loop().create_task(self.wait(), name="wait for a signal")
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait({task}, timeout=START_MORE)
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)
        if task.cancelled():
            return None
        result = task.result()
        return None if self.stopping else result

    async def step(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Do a part of stopping; ``name`` completes "still ..." if it takes too long."""
        self.last_resort.step = name
        await work()

    def ignore(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nothing that comes after this changes how the process ends; ``loop`` is about to be closed."""
        every = {*_STOPS, signal.SIGHUP}
        # A loop that is closed gives signals their default action back.
        signal.pthread_sigmask(signal.SIG_BLOCK, every)
        for number in every:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)

    def _on_stop(self, number: int) -> None:
        assert self._stop is not None
        if self._stop.is_set():
            log.warning("%s again: stopping within %g s", signal.Signals(number).name, HURRY)
            return
        self.stopped_by = signal.Signals(number)
        log.info("stopping: %s", self.stopped_by.name)
        self._stop.set()

    def _on_reload(self) -> None:
        if self.stopping:
            log.info("SIGHUP means nothing while stopping")
        elif self._reload is None:
            self._reload_asked = True
        else:
            self._reload()
