"""Keeps one daemon alive: found or started, watched, started again after a while if it ends.

The while grows with each end that comes early, up to half a minute, and what it waits for is told. A
Controller that is gone leaves the daemon running; the next one finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tempos.errors import one_line
from tempos_controller.parts.processes import Process, find, spawn

log = logging.getLogger("tempos.controller")

#: Seconds before it is started again: the first time, and at most.
FIRST, LONGEST = 0.1, 30.0
#: Who has run for so many seconds begins with the first again.
WELL = 30.0
#: Who has ended so often within that time has little hope of running.
HOPELESS = 3
#: Seconds after which one that runs and gives no answer hangs: it is killed, and started again.
HANGS = 30.0
#: Seconds that one has to end which is started anew.
ENDING = 6.0
#: Bytes of a log, after which it is put aside, the one before it thrown away.
MAX_LOG = 8 * 1024 * 1024
#: Of the log, what tells why it ended; who is killed has had no time to say anything of it.
_LAST_BYTES, _LAST_LINES = 4096, 3


class Child:
    """The daemon called ``name``. ``changed`` is called whenever it has started or ended.

    ``anew``: one that runs already goes by another file than this one is to, so it ends first.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        folder: Path,
        log_file: Path,
        changed: Callable[[], None],
        *,
        anew: bool = False,
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._argv = tuple(argv)
        self._folder = folder
        self._changed = changed
        self._anew = anew
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._log_from = 0
        self._early = 0
        self.restarts = 0
        #: Why it is not there, or was not the last time; "" if it never ended.
        self.reason = ""
        #: Monotonic time of the next start, if it waits for that.
        self.next_start: float | None = None
        self.since: float | None = None
        # Since when it was asked and gave no answer, and why it was killed.
        self._silent: float | None = None
        self._killed = ""

    @property
    def pid(self) -> int | None:
        """Of the process, if there is one."""
        return None if self._process is None else self._process.pid

    @property
    def state(self) -> str:
        """In a word."""
        if self._process is not None:
            return "running"
        return "starting again" if self.next_start is not None else "stopped"

    @property
    def is_hopeless(self) -> bool:
        """Whether it ends again and again as soon as it is started."""
        return self._early >= HOPELESS

    def heard(self) -> None:
        """It has answered."""
        self._silent = None

    def silent(self) -> None:
        """It was asked and gave no answer, though it runs: killed if that has been so for too long."""
        now, process = time.monotonic(), self._process
        if process is None:
            self._silent = None
        elif self._silent is None:
            self._silent = now
        elif now - self._silent >= HANGS and not self._killed:
            self._killed = f"gave no answer for {HANGS:g} s and was killed: "
            log.error("%s has given no answer for %g s: killed, and started again", self.name, HANGS)
            process.send(signal.SIGKILL)

    def start(self) -> None:
        """Have it running from now on."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"keep {self.name}")

    async def stop(self, how: signal.Signals, patience: float) -> bool:
        """End it, by force after so many seconds; whether it ended by itself."""
        await self._end_task()
        self.next_start = None
        process = self._process or self._former()
        if process is None:
            return True
        process.send(how)
        done, _ = await asyncio.wait({process.ended}, timeout=patience)
        if not done:
            log.error("%s does not stop within %g s: killed", self.name, patience)
            process.send(signal.SIGKILL)
            await asyncio.wait({process.ended}, timeout=patience)
        self._process = None
        return bool(done)

    def _former(self) -> Process | None:
        """One of an earlier Controller's that this one has not come to yet."""
        pid = find(self._argv, self._folder)
        with contextlib.suppress(ProcessLookupError):
            return None if pid is None else Process(pid)
        return None

    async def leave(self) -> None:
        """Watch it no longer, and let it run."""
        await self._end_task()
        if self._process is not None:
            self._process.forget()

    async def _end_task(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        delay = FIRST
        if self._anew:
            await self._end_former()
        while True:
            process = self._begin()
            if process is not None:
                began = self.since = time.monotonic()
                self._process = process
                self._changed()
                why = await asyncio.shield(process.ended)
                self._process, self.since = None, None
                words = "" if signal.SIGKILL.name in why else self._last_words()
                self.reason = one_line(f"{self._killed}{why}{words}")
                self._killed, self._silent = "", None
                self._early += 1
                if time.monotonic() - began >= WELL:
                    delay, self._early = FIRST, 0
            log.warning("%s: %s; started again in %g s", self.name, self.reason, delay)
            self.next_start = time.monotonic() + delay
            self._changed()
            await asyncio.sleep(delay)
            self.next_start = None
            self.restarts += 1
            delay = min(2 * delay, LONGEST)

    async def _end_former(self) -> None:
        pid = find(self._argv, self._folder)
        if pid is None:
            return
        log.info("%s runs with another configuration, pid %d: started anew", self.name, pid)
        with contextlib.suppress(ProcessLookupError):
            former = Process(pid)
            former.send(signal.SIGTERM)
            done, _ = await asyncio.wait({former.ended}, timeout=ENDING)
            if not done:
                former.send(signal.SIGKILL)
                await former.ended

    def _begin(self) -> Process | None:
        pid = find(self._argv, self._folder)
        try:
            if pid is not None:
                log.info("%s runs already: pid %d", self.name, pid)
                return Process(pid)
            self._turn_log()
            return Process(spawn(self._argv, self._folder, self.log_file))
        except OSError as error:
            self.reason = f"cannot be started: {error.strerror or error}"
            return None

    def _turn_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.log_file.stat().st_size > MAX_LOG:
                self.log_file.replace(self.log_file.with_suffix(".log.1"))
        with contextlib.suppress(OSError):
            self._log_from = self.log_file.stat().st_size if self.log_file.exists() else 0

    def trim_log(self) -> None:
        """Put a log aside that has grown too long while the daemon writes to it."""
        with contextlib.suppress(OSError):
            if self.log_file.stat().st_size > MAX_LOG:
                self.log_file.with_suffix(".log.1").write_bytes(self.log_file.read_bytes())
                # It appends, so it goes on at the beginning.
                os.truncate(self.log_file, 0)

    def _last_words(self) -> str:
        try:
            with self.log_file.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(min(self._log_from, size), size - _LAST_BYTES))
                lines = file.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        told = [line.strip() for line in lines if line.strip() and not line.startswith("ready")]
        return f": {'; '.join(told[-_LAST_LINES:])}" if told else ""
