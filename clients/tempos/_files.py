"""A file is whole, or is what it was before: a disk may be full, a process killed, a machine without current.

What is written stands beside, as ``.NAME.*.part``, until it is on the disk; then it takes the file's place,
and that lasts, too. Who writes holds a lock on its part: so what a killed writer left is known, and the next
one removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Have ``content`` in a file; one that is new gets ``mode``, as far as the umask lets it.

    Raises :class:`OSError`, and what was there is there still. What is no plain file (``/dev/stdout``) is
    written to.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    # Where it is a link, that stays one.
    target = path.resolve()
    _sweep(target)
    with _new_part(target, mode) as (part, number):
        with contextlib.suppress(FileNotFoundError):
            os.fchmod(number, target.stat().st_mode & 0o777 & (mode | 0o111))
        with os.fdopen(number, "wb", closefd=False) as file:
            file.write(content)
        os.fsync(number)
        _put(part, target)


def put_whole(part: Path, path: Path) -> None:
    """Have what was written beside in the place of ``path``, through a crash; raises :class:`OSError`."""
    _sync(part, os.O_RDONLY)
    _put(part, path)


def _put(part: Path, path: Path) -> None:
    part.replace(path)
    # A folder may be written to and not be read.
    with contextlib.suppress(PermissionError):
        _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


@contextlib.contextmanager
def _new_part(target: Path, mode: int) -> Iterator[tuple[Path, int]]:
    """A locked file beside ``target``, open for writing; gone at the end, unless it took its place."""
    while True:
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            _lock(number, fcntl.LOCK_EX)
            # Another may have found it before it was locked, and removed it.
            if not os.fstat(number).st_nlink:
                continue
            yield part, number
        finally:
            part.unlink(missing_ok=True)
            os.close(number)
        return


def _sweep(target: Path) -> None:
    """Remove the parts of writers that were killed."""
    name_of_part = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.part")
    try:
        names = os.listdir(target.parent)  # noqa: PTH208 - a folder may hold much else
    except PermissionError:
        return
    for name in filter(name_of_part.fullmatch, names):
        part = target.with_name(name)
        with contextlib.suppress(OSError):
            number = os.open(part, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if _lock(number, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    part.unlink()
            finally:
                os.close(number)


def _lock(number: int, how: int) -> bool:
    """Whether it is had; there are file systems without."""
    try:
        fcntl.flock(number, how)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        return False
    return True


def _sync(path: Path, flags: int) -> None:
    number = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)
