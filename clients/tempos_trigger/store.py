"""What a trigger keeps on disk: the deployment in force, and what a source must not forget.

A file is had as a whole or not at all. They may hold secrets, so they are the owner's alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tempos import Unavailable
from tempos._files import write_whole

DEPLOYMENT = "deployment.json"
LOCK = "lock"


class Store:
    """Documents in a folder, which is made if need be; raises :class:`tempos.Unavailable` where it cannot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = -1
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"the state folder {folder} cannot be had: {error.strerror}; set trigger.state to another"
            ) from error

    def hold(self) -> None:
        """Have it alone from now on, until this process ends; raises :class:`tempos.Unavailable`."""
        fd = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise Unavailable(
                f"another trigger has the state folder {self.folder}: give this one a trigger.name or a "
                "trigger.state of its own"
            ) from error
        self._lock = fd

    def read(self, name: str) -> Any:
        """A document; None if there is none. Raises :class:`tempos.Unavailable` for one that is broken."""
        path = self.folder / name
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise Unavailable(f"{path} cannot be read: {error}; remove it to begin without") from error

    def write(self, name: str, document: Mapping[str, Any] | list[Any]) -> None:
        """Keep a document, through a crash from now on. Raises :class:`OSError`; then the old one stays."""
        write_whole(self.folder / name, json.dumps(document).encode(), 0o600)

    def remove(self, name: str) -> None:
        """Keep it no longer."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / name).unlink()
