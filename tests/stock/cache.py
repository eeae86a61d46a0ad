"""The folder that keeps what is dear to make. An entry is named for all it was made from.

So what changed is made anew under another name, and an entry is whole or not there: it is made beside its
place and then moved there. One process at a time makes entries.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tempos-kernels"


def digest(*parts: object) -> str:
    """A short name for all of ``parts``."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


@contextmanager
def locked() -> Iterator[None]:
    """Nobody else makes entries meanwhile."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with (ROOT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def entry(kind: str, name: str, make: Callable[[Path], None]) -> Path:
    """The folder of an entry; ``make`` fills it if it is not there. Others of its kind are older, and go."""
    place = ROOT / kind / name
    if not place.is_dir():
        remove(place.parent)
        unfinished = place.with_name(f"{name}.part")
        unfinished.mkdir(parents=True)
        make(unfinished)
        unfinished.rename(place)
    return place


def remove(path: Path) -> None:
    """Remove a folder with all in it, if it is there."""
    if path.exists():
        shutil.rmtree(path)


def clean() -> None:
    """Remove everything."""
    with locked():
        for kind in ("root", "kernels", "trees", "wheels", "accelerator"):
            remove(ROOT / kind)
