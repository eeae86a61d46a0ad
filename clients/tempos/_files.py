"""A file that a command is told to write is whole, or is what it was before: a disk may be full."""

from __future__ import annotations

import contextlib
import os
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
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with os.fdopen(
            os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb"
        ) as file:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(file.fileno(), target.stat().st_mode & 0o777 & (mode | 0o111))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
