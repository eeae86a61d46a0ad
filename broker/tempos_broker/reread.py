"""Reading the configuration again while the broker runs: asked for by the control API, or by SIGHUP.

One at a time. Signals that come during a reload are one more reload, whatever their number, for it reads what
is in the file then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from tempos import ConfigError, Unavailable
from tempos.errors import one_line
from tempos_broker.broker import Broker
from tempos_broker.config import load
from tempos_broker.config.model import BrokerConfig
from tempos_broker.reader import Read
from tempos_daemon import toml
from tempos_daemon.notify import READY, notify, reloading

log = logging.getLogger("tempos.broker")

#: Seconds that a reload which is under way may still take when the broker stops.
PATIENCE = 0.5


class Rereading:
    """Reloads a broker from the file it was started from, if it was; ``read`` gives its bytes."""

    def __init__(self, broker: Broker, file: Path | None, read: Read = Path.read_bytes) -> None:
        self._broker = broker
        self._file = file
        self._read = read
        self._task: asyncio.Task[None] | None = None
        self._again = False

    async def reload(self) -> Sequence[str]:
        """What changed, a line each; raises :class:`ConfigError` or :class:`Unavailable`."""
        if self._file is None:
            raise ConfigError(["this broker was not started from a file"])
        config = await asyncio.get_running_loop().run_in_executor(None, self._load, self._file)
        return await self._broker.reload(config)

    def check(self) -> None:
        """Raise :class:`ConfigError` if the file could not be read again; what is in it is known."""
        if self._file is not None:
            toml.read_text(self._file, self._read)

    def _load(self, file: Path) -> BrokerConfig:
        return load(file, self._read)

    def on_signal(self) -> None:
        """Reload, and print what came of it."""
        if self._task is not None:
            self._again = True
            return
        self._task = asyncio.get_running_loop().create_task(self._reload_and_tell(), name="reload on SIGHUP")

    async def close(self) -> None:
        """Begin no reload any more, and end one that takes long."""
        self._again = False
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=PATIENCE)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _reload_and_tell(self) -> None:
        while True:
            self._again = False
            notify(reloading())
            try:
                changes = await self.reload()
            except ConfigError as error:
                for problem in error.problems:
                    log.error("not reloaded: %s", problem)  # noqa: TRY400 - its words say it all
            except Unavailable as error:
                log.error("not reloaded: %s", one_line(error))  # noqa: TRY400 - its words say it all
            else:
                print("\n".join(f"reload: {line}" for line in changes or ["nothing changed"]), flush=True)
            finally:
                notify(READY)
            if not self._again:
                break
        self._task = None
