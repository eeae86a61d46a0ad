"""Where the daemons of this machine keep what is theirs: of brokers a folder for each name.

    /run/tempos/NAME/               of brokers that root starts, whoever they are then
    $XDG_RUNTIME_DIR/tempos/NAME/   of those that another user starts

In it are the state, unless the configuration names another place for it, and a lock for each network
namespace. It belongs to whoever the broker runs as, and may be looked into by all: who holds what is nobody's
secret. The state is, and its files say so.

What triggers, invokers and Controllers must not forget is in :func:`state_of`.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import urllib.parse
from pathlib import Path

#: Where root's are.
SYSTEM = Path("/run/tempos")
#: Of the folders.
MODE = 0o755
#: struct flock of fcntl.h: type, whence, start, length, pid (0 where the lock is not a process's).
_FLOCK = "hhqqi4x"
#: For fcntl: a lock on a whole file.
WHOLE_FILE = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def quote(name: str) -> str:
    """A broker's name as part of a file's, which may hold neither slash nor dot."""
    return urllib.parse.quote(name, safe=" ").replace(".", "%2E").replace("~", "%7E")


def unquote(quoted: str) -> str:
    """The name that :func:`quote` made a file's part of."""
    return urllib.parse.unquote(quoted)


def state_of(daemon: str, name: str) -> Path:
    """The state folder of a "trigger", "invoker" or "controller" of this user that names no other one."""
    if os.geteuid() == 0:
        return Path("/var/lib/tempos") / daemon / name
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "tempos" / daemon / name


def bases() -> list[Path]:
    """Below which brokers have their folders, as far as this user can know."""
    own = os.environ.get("XDG_RUNTIME_DIR")
    return [SYSTEM, *([Path(own) / "tempos"] if own else [])]


def folders() -> list[tuple[str, Path]]:
    """Those that are there, each with the name of its brokers."""
    found = []
    for base in bases():
        try:
            found += [(unquote(each.name), each) for each in sorted(base.iterdir()) if each.is_dir()]
        except OSError:
            # None there, or not to be looked into.
            continue
    return found


def folder_of(name: str) -> Path | None:
    """The folder of a broker of this name that this process can write to, made if need be; None: none can."""
    for base in bases():
        folder = base / quote(name)
        try:
            # Each with the mode it is to have: the umask is for other people's files.
            for each in (base, folder):
                if not each.is_dir():
                    each.mkdir(exist_ok=True)
                    each.chmod(MODE)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None


def is_locked(path: Path) -> bool:
    """Whether some process has a lock on a file; asks, and takes none."""
    if sys.platform != "linux":
        return False
    try:
        # Not by a pipe that somebody may have put there: that would wait.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, WHOLE_FILE)
    except OSError:
        return False
    finally:
        os.close(fd)
    return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)
