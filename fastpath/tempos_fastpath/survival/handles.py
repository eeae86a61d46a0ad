"""A set of pins given to whoever the broker is to run as, while it still has every privilege.

A BPF file system usually lets nobody but root in. So the folder of the set is given to the user and held
open: through the descriptor it can be worked in without passing what lies above it. Whoever ran the last
broker of the name, its pins belong to the next one; no other name's are touched.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from tempos import Unavailable
from tempos_fastpath.survival.ownership import ROOT, Identity, current_namespace

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Handle:
    """The folder of a set and the one that it lies in, held open for as long as this process lives."""

    descriptor: int
    parent: int
    name: str

    @property
    def folder(self) -> Path:
        """A path to it that asks no folder above for leave."""
        return Path(f"/proc/self/fd/{self.descriptor}")

    @property
    def gone(self) -> bool:
        """Whether somebody removed it."""
        return os.fstat(self.descriptor).st_nlink == 0

    def close(self) -> None:
        """Let go of both, and of the folder if nothing has come of it; it is not reached by this any more."""
        with contextlib.suppress(OSError):
            self.remove()
        os.close(self.descriptor)
        os.close(self.parent)

    def remove(self) -> None:
        """Remove the folder, which is empty; raises :class:`OSError`."""
        os.rmdir(self.name, dir_fd=self.parent)


def give(name: str, uid: int, gid: int, *, make: bool) -> Handle | None:
    """Give the set of a broker of this name, in this network namespace, to a user.

    ``make``: also where there is none yet. None: there is none. Raises :class:`~tempos.Unavailable`. Needs
    every privilege, and that no broker of this name lives.
    """
    folder = ROOT / Identity(name, current_namespace()).folder
    try:
        if make and uid:
            # Only where one is wanted: it needs libbpf.
            from tempos_fastpath.survival.pins import need_bpffs

            need_bpffs()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Whoever removes the set at the end removes its folder, and whoever comes next makes it in there.
        # Other namespaces' sets of the name stay apart.
        if not set(folder.parent.iterdir()) - {folder}:
            os.chown(folder.parent, uid, gid, follow_symlinks=False)
        if make and folder.parent.stat().st_uid != uid:
            # Root without privileges could not.
            folder.mkdir(mode=0o700, exist_ok=True)
        for each in (folder, *folder.iterdir()):
            os.chown(each, uid, gid, follow_symlinks=False)
        folder.chmod(0o700)
        parent = os.open(folder.parent, _FOLDER)
        return Handle(os.open(folder, _FOLDER), parent, folder.name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"the pins in {folder} cannot be given to user {uid}: {error.strerror}") from error
