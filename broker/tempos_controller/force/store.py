"""The Controller's folder: what is wanted, code, tokens, logs; had by one Controller at a time.

    desired.json     what is wanted, and what is being changed
    code/SHA256      code that was uploaded, or came with the file
    tokens/NAME      of the daemons that are started here, and of the Controller itself
    parts/NAME/      the files and the state of each of them
    log/NAME.log     what they say

What is written is on the disk when the call returns, whole. All of it is its user's alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tempos import ConfigError, Unavailable
from tempos._files import write_whole

VERSION = 1
_DESIRED, _LOCK, _CODE = "desired.json", "lock", "code"


@dataclass(frozen=True, slots=True)
class Desired:
    """What is wanted. ``items``: kind -> name -> document; ``origins``: kind/name -> "file" or "run-time".

    ``file``: the hash of the file that was put in force last. ``made``: topics that are ours, with the
    options that were stated. ``changing``: what was to come, if that was not finished.
    """

    items: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    file: str = ""
    made: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    changing: str = ""

    def documents(self, kind: str) -> list[Any]:
        """Those of a kind, in order."""
        return list(self.items.get(kind, {}).values())


def _check(found: Mapping[str, Any]) -> None:
    """Raise :class:`ValueError` for what is of another kind than it is written as."""
    items, origins, made = found["items"], found["origins"], found["made"]
    tables = {"made": {"": made}, **({"items": items} if isinstance(items, dict) else {"items": {"": items}})}
    amiss = [name for name, table in tables.items() if not all(map(_is_of_tables, table.values()))]
    amiss += [name for name in ("file", "changing") if not isinstance(found[name], str)]
    if amiss:
        raise ValueError(f"{', '.join(amiss)} cannot be what was written")
    if not isinstance(origins, dict) or origins.keys() != {
        f"{kind}/{name}" for kind, named in items.items() for name in named
    }:
        raise ValueError("origins does not tell whose each of the items is")


def _is_of_tables(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(each, dict) for each in value.values())


class Store:
    """The folder, locked. Raises :class:`Unavailable` if another Controller has it, or nobody can."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            for name in (_CODE, "tokens", "parts", "log"):
                (folder / name).mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise Unavailable(
                f"the state folder {folder} cannot be had: {error.strerror}; set controller.state to another"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise Unavailable(
                f"another Controller has the state folder {folder}: stop that one, or give this one another "
                "controller.name or controller.state"
            ) from error

    def close(self) -> None:
        """Let another Controller have it."""
        os.close(self._lock)

    # --- what is wanted ---------------------------------------------------------------------

    def read(self) -> Desired | None:
        """What was wanted last; None if nothing ever was. Raises :class:`ConfigError` for what is broken."""
        path = self.folder / _DESIRED
        try:
            found = json.loads(path.read_bytes())
            if found["version"] != VERSION:
                raise ValueError(f"is of version {found['version']!r}; this is {VERSION}")
            _check(found)
            return Desired(
                found["items"], found["origins"], found["file"], found["made"], found["changing"]
            )  # fmt: skip
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                [f"{path}: cannot be read: {error}; move it away to begin with what the file says"]
            ) from None

    def write(self, desired: Desired) -> None:
        """Want this from now on. Raises :class:`Unavailable`; then what was wanted before still is."""
        document = {
            "version": VERSION, "items": desired.items, "origins": desired.origins, "file": desired.file,
            "made": desired.made, "changing": desired.changing,
        }  # fmt: skip
        self._put(self.folder / _DESIRED, json.dumps(document, indent=1).encode())

    # --- code -------------------------------------------------------------------------------

    def add_code(self, code: bytes) -> str:
        """Keep code; gives its hash."""
        digest = hashlib.sha256(code).hexdigest()
        if self.code(digest) is None:
            self._put(self._code(digest), code)
        return digest

    def code(self, digest: str) -> bytes | None:
        """The code with this hash, if it is there and whole."""
        try:
            found = self._code(digest).read_bytes()
        except OSError:
            return None
        return found if hashlib.sha256(found).hexdigest() == digest else None

    def has_code(self, digest: str) -> bool:
        """Whether there is code with this hash."""
        return self._code(digest).exists()

    def forget_code(self, needed: Iterable[str]) -> None:
        """Keep no other code than this."""
        kept = set(needed)
        for path in (self.folder / _CODE).iterdir():
            if path.name not in kept:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _code(self, digest: str) -> Path:
        assert len(digest) == 64, "judged before"
        assert digest.isalnum(), "judged before"
        return self.folder / _CODE / digest

    # --- tokens and files -------------------------------------------------------------------

    def token(self, name: str) -> Path:
        """The file with a token, made if need be."""
        path = self.folder / "tokens" / name
        if not path.exists():
            self._put(path, f"{secrets.token_urlsafe(32)}\n".encode())
        return path

    def part(self, name: str) -> Path:
        """The folder of a daemon that is started here."""
        path = self.folder / "parts" / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def write_file(self, path: Path, text: str) -> bool:
        """Have a file hold this; whether it held something else."""
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return False
        self._put(path, text.encode())
        return True

    def log(self, name: str) -> Path:
        """The log of a daemon that is started here."""
        return self.folder / "log" / f"{name}.log"

    def _put(self, path: Path, content: bytes) -> None:
        try:
            write_whole(path, content, 0o600)
        except OSError as error:
            raise Unavailable(f"{path} cannot be written: {error.strerror}") from error
