"""Reading the configuration again while the broker runs: what the control API and SIGHUP ask for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from tempos import ConfigError
from tempos_broker.account.changes import Kind
from tempos_broker.broker import Broker
from tempos_broker.config.apart import Apart
from tempos_broker.reader import Read
from tempos_daemon import toml
from tempos_daemon.files import read_start


class Reread:
    """Reloads a broker from the file it was started from, if it was; ``read`` gives its bytes."""

    def __init__(self, broker: Broker, file: Path | None, read: Read = read_start) -> None:
        self._broker = broker
        self._file = file
        self._read = read
        self._apart = Apart()

    async def reload(self) -> Sequence[str]:
        """What changed, a line each; raises :class:`ConfigError` or :class:`Unavailable`."""
        if self._file is None:
            raise ConfigError(["this broker was not started from a file"])
        try:
            config = await asyncio.get_running_loop().run_in_executor(
                None, self._apart.load, self._file, self._read
            )
            return await self._broker.reload(config)
        except ConfigError as error:
            # Whoever asked logs it, or tells it.
            text = f"not reloaded: {'; '.join(error.problems)}"
            self._broker.changes.note(Kind.RELOAD, logging.WARNING, text)
            raise

    def close(self) -> None:
        """Read no more; who waits for it is let go."""
        self._apart.close()

    def check(self) -> None:
        """Raise :class:`ConfigError` if the file could not be read again; what is in it is known."""
        if self._file is not None:
            toml.read_text(self._file, self._read)
