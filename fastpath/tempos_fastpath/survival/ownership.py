"""Who a fast path belongs to: a broker's name in one network namespace, held by one living process.

The lock is one on a file, so it ends with the process, however that ends; the file says who holds
or held it, for people and for `tempos fastpath list`. It is of the kind that can be asked about without
taking it (F_OFD_GETLK): looking never stands in a broker's way. Interface indices mean something inside one
network namespace only: that is why it is part of the identity.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tempos import Unavailable
from tempos_fastpath.errors import Owned

BPFFS = Path("/sys/fs/bpf")
#: Where pins are: below it, :attr:`Identity.folder`.
ROOT = BPFFS / "tempos"
_SO_NETNS_COOKIE = 71
_SYSTEM = Path("/run/tempos")
_SUFFIX = ".fastpath.lock"
#: Bytes of a file that are looked at.
_LONGEST = 1 << 16
#: Whoever removes a dead one's file holds its lock for a moment: how often to try again, and after how long.
_PATIENCE, _PAUSE = 5, 0.02
#: struct flock of fcntl.h: type, whence, start, length, pid (0 where the lock is not a process's).
_FLOCK = "hhqqi4x"
_WHOLE_FILE = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Identity:
    """A broker's name and its network namespace, by a number the kernel never gives twice."""

    name: str
    namespace: int

    @property
    def folder(self) -> Path:
        """Two path elements for it; a BPF file system allows no dot in a name."""
        return Path(quote(self.name), str(self.namespace))


@dataclass(frozen=True, slots=True)
class Owner:
    """What a lock file says. ``interfaces``: name -> index; ``alive``: whether ``pid`` holds the lock."""

    identity: Identity
    pid: int
    interfaces: Mapping[str, int] = field(default_factory=dict)
    alive: bool = False


def quote(name: str) -> str:
    """A broker's name as part of a file's, which may hold neither slash nor dot."""
    return urllib.parse.quote(name, safe=" ").replace(".", "%2E").replace("~", "%7E")


def unquote(quoted: str) -> str:
    """The name that :func:`quote` made a file's part of."""
    return urllib.parse.unquote(quoted)


def current_namespace() -> int:
    """The network namespace of the calling thread."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            return int.from_bytes(any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
    # Before Linux 5.14: an inode, which another namespace may get once this one is gone.
    return Path("/proc/thread-self/ns/net").stat().st_ino


def is_something_left(name: str) -> bool:
    """Whether a broker of this name left pins in this namespace, or signs of some that are out of reach."""
    identity = Identity(name, current_namespace())
    try:
        with os.scandir(ROOT / identity.folder) as entries:
            return any(entries)
    except PermissionError:
        return any(each.identity == identity and each.interfaces and not each.alive for each in owners())
    except OSError:
        return False


class Ownership:
    """The lock on an identity. Raises :class:`Owned` if a living process holds it. Blocks a little."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._path = _folder() / f"{quote(identity.name)}~{identity.namespace}{_SUFFIX}"
        self._fd = self._lock()
        self._former = os.pread(self._fd, _LONGEST, 0)
        self._write(_encode({}))

    def tell(self, interfaces: Mapping[str, int]) -> None:
        """Write down which interfaces are held now; until then they are those of whoever was here before."""
        self._former = b""
        self._write(_encode(interfaces))

    def _write(self, data: bytes) -> None:
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))

    def close(self, *, keep: bool = False) -> None:
        """Let go; ``keep`` leaves the file, which says whose pins there are. Safe to call twice."""
        if self._fd < 0:
            return
        if self._former:
            # Nothing was changed here, so it says what it said.
            self._write(self._former)
        elif not keep:
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._fd)
        self._fd = -1

    def _lock(self) -> int:
        patience = _PATIENCE
        while True:
            try:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            except OSError as error:
                raise Unavailable(f"cannot open the lock {self._path}: {error.strerror}") from error
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
                # Whoever held it before may have removed the file between our two calls.
                if _same_file(fd, self._path):
                    return fd
            except (BlockingIOError, PermissionError):
                os.close(fd)
                if patience:
                    patience -= 1
                    time.sleep(_PAUSE)
                    continue
                owner = _read(self._path, alive=True)
                who = f"process {owner.pid}" if owner and owner.pid else "another process"
                raise Owned(
                    f"a broker named {self.identity.name!r} already has a fast path in this network "
                    f"namespace ({who}); stop it, or give this one another broker.name"
                ) from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)


def _encode(interfaces: Mapping[str, int]) -> bytes:
    return json.dumps({"pid": os.getpid(), "interfaces": dict(interfaces)}).encode()


def owners() -> Iterator[Owner]:
    """Every fast path that a process holds, or held when it ended without cleaning up."""
    for folder in _folders():
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            owner = _read(path, alive=_locked(path))
            if owner is not None:
                yield owner


def forget(identity: Identity) -> None:
    """Remove the lock file of a broker that is gone."""
    for folder in _folders():
        path = folder / f"{quote(identity.name)}~{identity.namespace}{_SUFFIX}"
        # Under the lock: what a starting broker has just taken must not lose its file.
        with contextlib.suppress(OSError), path.open("rb+") as file:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, _WHOLE_FILE)
            if _same_file(file.fileno(), path):
                path.unlink()


def _folders() -> list[Path]:
    own = os.environ.get("XDG_RUNTIME_DIR")
    return [_SYSTEM, *([Path(own) / "tempos"] if own else [])]


def _folder() -> Path:
    """The first folder that can be written to; made if need be."""
    for folder in _folders():
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o755, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise Unavailable(f"no folder for the lock of the fast path: {_SYSTEM} cannot be written to")


def _locked(path: Path) -> bool:
    try:
        with path.open("rb+") as file:
            found = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _WHOLE_FILE)
    except OSError:
        return False
    return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _read(path: Path, *, alive: bool) -> Owner | None:
    """Whose file it is by its name; the rest by what stands in it, if it was written already."""
    name, _, namespace = path.name.removesuffix(_SUFFIX).rpartition("~")
    if not namespace.isdecimal():
        return None
    identity = Identity(unquote(name), int(namespace))
    try:
        text = json.loads(path.read_bytes())
        interfaces = {str(name): int(index) for name, index in text["interfaces"].items()}
        return Owner(identity, int(text["pid"]), interfaces, alive)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Owner(identity, 0, {}, alive)
