"""What an invoker keeps on disk: its deployment, and code, each version at a path of its own.

    deployment.json    as it was given, in force again after a restart
    ports.json         where its members received
    code/SHA256/NAME   never changed once it is there
    cache/             what modes keep for themselves (compiled modules)

Rules: a file is whole or not there; one invoker at a time has a folder; code that no deployment names goes
once it is old.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tempos import Unavailable
from tempos._files import put_whole, write_whole
from tempos_invoker.deploy.model import Code
from tempos_invoker.deploy.ports import Ports

#: Seconds that code is kept which nothing names: it may be named by what comes next.
UNUSED_KEPT = 3600.0
log = logging.getLogger("tempos.invoker")

_DEPLOYMENT, _CODE, _CACHE, _PARTS = "deployment.json", "code", "cache", "parts"


class Store:
    """The folder of one invoker; raises :class:`Unavailable` where it cannot be had."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        try:
            for each in (self.folder, self.folder / _CODE, self.folder / _CACHE, self.folder / _PARTS):
                each.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(
                f"the state folder {self.folder} cannot be had: {error.strerror}; set invoker.state"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise Unavailable(
                f"another invoker has the state folder {self.folder}: set invoker.state, or invoker.name"
            ) from None
        for part in (self.folder / _PARTS).iterdir():
            part.unlink(missing_ok=True)
        self.ports = Ports(self.folder / "ports.json")

    def close(self) -> None:
        os.close(self._lock)

    @property
    def cache(self) -> Path:
        return self.folder / _CACHE

    # --- deployment --------------------------------------------------------------------------

    def load(self) -> Any:
        """The document that was in force, None if there is none; raises :class:`Unavailable`."""
        try:
            return json.loads((self.folder / _DEPLOYMENT).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise Unavailable(f"{self.folder / _DEPLOYMENT} cannot be read: {error}") from error

    def save(self, document: Any) -> None:
        """Remember it; raises :class:`OSError`."""
        write_whole(self.folder / _DEPLOYMENT, json.dumps(document).encode(), 0o600)

    # --- code --------------------------------------------------------------------------------

    def find(self, code: Code) -> Path | None:
        """Where code lies that was uploaded, under the name that is asked for."""
        folder = self.folder / _CODE / code.sha256
        path = folder / code.name
        if path.is_file():
            return path
        for other in folder.glob("[!.]*"):
            # The same bytes under another name.
            write_whole(path, other.read_bytes(), 0o755)
            return path
        return None

    def part(self) -> Path:
        """A new file for what is being uploaded."""
        return self.folder / _PARTS / os.urandom(8).hex()

    def keep(self, part: Path, sha256: str) -> None:
        """What was uploaded is whole: it is there from now on; raises :class:`OSError`."""
        folder = self.folder / _CODE / sha256
        folder.mkdir(mode=0o755, exist_ok=True)
        part.chmod(0o755)
        put_whole(part, folder / "code")
        folder.touch()

    def adopt(self, code: Code) -> Code:
        """A file that a TOML names, at a path of its own; raises :class:`OSError`, or if it has changed."""
        found = self.find(code)
        if found is None:
            content = Path(code.path).read_bytes()
            if hashlib.sha256(content).hexdigest() != code.sha256:
                raise OSError(None, f"{code.path} was changed meanwhile")
            folder = self.folder / _CODE / code.sha256
            folder.mkdir(mode=0o755, exist_ok=True)
            found = folder / code.name
            write_whole(found, content, 0o755)
        return Code(code.sha256, code.name, str(found), code.folder)

    def sweep(self, used: Collection[str]) -> None:
        """Remove code that is not among ``used`` (hashes) and has not been for a while.

        Where that cannot be done, as in a folder that somebody has removed, there is time for it later.
        """
        try:
            for folder in (self.folder / _CODE).iterdir():
                if folder.name in used:
                    folder.touch()
                elif time.time() - folder.stat().st_mtime > UNUSED_KEPT:
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            log.warning("code that nothing names stays in %s: %s", self.folder, error.strerror)
