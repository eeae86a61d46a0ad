"""A disk that can be filled: a small tmpfs in a mount namespace of its own, for programs started inside."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

_HOLD = 'mount -t tmpfs -o "size=$1,mode=755" tmpfs "$2" && echo mounted && exec cat'


class SmallDisk:
    """``folder`` holds ``size`` bytes for programs that are started with ``prefix`` before their command."""

    def __init__(self, folder: Path, size: int) -> None:
        command = (
            "unshare",
            "-m",
            "--propagation",
            "private",
            "sh",
            "-c",
            _HOLD,
            "sh",
            str(size),
            str(folder),
        )
        self._holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._holder.stdout is not None
        line = self._holder.stdout.readline()
        assert line == "mounted\n", line
        self.folder = folder
        self.prefix = ("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", f"--wd={Path.cwd()}")
        self._fill = self.seen(folder / "fill")

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(self, *_: object) -> None:
        # The namespace and what is mounted in it end with the last process inside.
        self._holder.communicate()

    def seen(self, path: Path) -> Path:
        """A path inside, as this process reaches it."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def fill(self, free: int = 0) -> None:
        """Leave no more than ``free`` bytes, in whole pages."""
        self.free()
        with self._fill.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass
        with self._fill.open("ab", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 12)):
                pass
        with self._fill.open("r+b") as file:
            file.truncate(max(0, self._fill.stat().st_size - free))

    def free(self) -> None:
        """Give the room back."""
        self._fill.unlink(missing_ok=True)
