"""What belongs to a broker on disk: the folder of its name, given to whoever it is to run as.

Rules: other names' folders are never touched; what a living broker holds is not taken from it, whatever its
name; what is given are plain files that stand in that folder and nowhere else, opened first, so that nobody
can put something else in their place meanwhile. Every start gives the folder to its own user, so a start that
fails leaves nothing that the next one has to put right by hand.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tempos import Unavailable
from tempos._places import MODE, bases, folder_of, is_locked, quote

if TYPE_CHECKING:
    from tempos_broker.privileges import User

#: The database; beside it lies what :mod:`.store` and :mod:`.statefiles` add to its name.
STATE = "state.db"
_BESIDE = ("-wal", "-shm", "-tickets", "-slow")


def usual_state(name: str) -> Path | None:
    """Where the state of a broker of this name belongs; None if this user can have no place for it.

    What an earlier version left at its own place is moved there, unless somebody uses it: then that is the
    place.
    """
    folder = folder_of(name)
    if folder is None:
        return None
    path = folder / STATE
    for base in bases():
        former = base / f"{quote(name)}.db"
        if path.exists() or not former.is_file():
            continue
        if is_locked(former):
            return former
        # The database last: until it has moved, all is tried again.
        for ending in (*_BESIDE, ""):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{former}{ending}").rename(f"{path}{ending}")
    return path


def give(name: str, user: User) -> None:
    """Give the folder of this name, and what a former broker left in it, to a user; as root, first of all.

    Raises :class:`Unavailable` if a living broker that runs as somebody else has it.
    """
    try:
        _take_back(bases()[0])
        usual_state(name)
        folder = folder_of(name)
        if folder is None:
            return
        with contextlib.ExitStack() as stack:
            others = [
                (path, descriptor)
                for path, descriptor in _opened(folder, stack)
                if os.fstat(descriptor).st_uid != user.uid
            ]
            if not others:
                return
            if any(is_locked(path) for path in folder.iterdir()):
                raise Unavailable(
                    f"{folder} is in use by a broker that runs as another user than {user.name!r}: stop "
                    "that one, or give this one a broker.name of its own"
                )
            for _, descriptor in others:
                os.fchown(descriptor, user.uid, user.gid)
    except OSError as error:
        raise Unavailable(
            f"the folder of the broker {name!r} cannot be given to {user.name!r}: {error}"
        ) from error


def _take_back(base: Path) -> None:
    """See to it that the folder of all folders is root's, if it is there: earlier versions gave it away."""
    with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
        descriptor = _open(base, os.O_DIRECTORY, stack)
        now = os.fstat(descriptor)
        if now.st_uid:
            os.fchown(descriptor, 0, 0)
        if stat.S_IMODE(now.st_mode) != MODE:
            os.fchmod(descriptor, MODE)


def _opened(folder: Path, stack: contextlib.ExitStack) -> Iterator[tuple[Path, int]]:
    """The folder, and the plain files in it that stand nowhere else."""
    yield folder, _open(folder, os.O_DIRECTORY, stack)
    for path in sorted(folder.iterdir()):
        try:
            descriptor = _open(path, os.O_NONBLOCK, stack)
        except OSError:
            # A link, a socket: nothing of ours.
            continue
        now = os.fstat(descriptor)
        if stat.S_ISREG(now.st_mode) and now.st_nlink == 1:
            yield path, descriptor


def _open(path: Path, how: int, stack: contextlib.ExitStack) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | how)
    stack.callback(os.close, descriptor)
    return descriptor
