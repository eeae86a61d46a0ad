"""Compiled modules on disk, by the hash of the module, the engine's version and its settings.

Rule: what lies there is run as machine code, so it is taken only from a folder and files that nobody else
can write to, and only if it is what was once put there (its own hash stands before it).
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from tempos._files import write_whole

_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_HASH = hashlib.sha256().digest_size


class Cache:
    """``folder``: "" for none. ``remark``: why it is not used, or ""."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder) if folder else None
        self.remark = ""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.remark = _writable_by_others(self._folder)
        except OSError as error:
            self.remark = f"{self._folder}: {error.strerror}"
        if self.remark:
            self._folder = None

    def get(self, key: str) -> bytes | None:
        """What was put there under this key, if it is whole and nobody else's."""
        if self._folder is None:
            return None
        try:
            path = self._folder / key
            if _writable_by_others(path):
                return None
            content = path.read_bytes()
        except OSError:
            return None
        compiled = content[_HASH:]
        return compiled if hashlib.sha256(compiled).digest() == content[:_HASH] else None

    def put(self, key: str, compiled: bytes) -> None:
        """Whole or not at all; a cache that cannot be written to costs time, and nothing else."""
        if self._folder is None:
            return
        try:
            write_whole(self._folder / key, hashlib.sha256(compiled).digest() + compiled, 0o600)
        except OSError as error:
            self.remark = f"{self._folder}: {error.strerror}"


def _writable_by_others(path: Path) -> str:
    """Who else can write there, in words, or ""."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return f"{path} is a link, which others may have laid"
    if found.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to another user"
    return f"others can write to {path}" if found.st_mode & _OTHERS else ""
