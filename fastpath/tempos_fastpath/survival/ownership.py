"""Who a fast path belongs to: a broker's name in one network namespace, held by one living process.

The lock is one on a file, so it ends with the process, however that ends; the file says who holds
or held it, for people and for `tempos fastpath list`. It is of the kind that can be asked about without
taking it (F_OFD_GETLK): looking never stands in a broker's way. Interface indices mean something inside one
network namespace only: that is why it is part of the identity. The file lies in the folder of the broker's
name (``tempos._places``); earlier versions had all side by side, and what is found there moves in.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tempos import Unavailable
from tempos._places import WHOLE_FILE, bases, folder_of, folders, is_locked, quote, unquote
from tempos_fastpath.errors import Owned

BPFFS = Path("/sys/fs/bpf")
#: Where pins are: below it, :attr:`Identity.folder`.
ROOT = BPFFS / "tempos"
_SO_NETNS_COOKIE = 71
_SUFFIX = ".fastpath.lock"
#: Bytes of a file that are looked at.
_LONGEST = 1 << 16
#: Whoever removes a dead one's file holds its lock for a moment: how often to try again, and after how long.
_PATIENCE, _PAUSE = 5, 0.02


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


def is_something_left(name: str, folder: Path | None = None) -> bool:
    """Whether a broker of this name left pins in this namespace, or signs of some that are out of reach.

    ``folder``: by which they are in reach where they usually are not.
    """
    identity = Identity(name, current_namespace())
    try:
        with os.scandir(folder or ROOT / identity.folder) as entries:
            return any(entries)
    except PermissionError:
        return any(each.identity == identity and each.interfaces and not each.alive for each in owners())
    except OSError:
        return False


class Ownership:
    """The lock on an identity. Blocks a little.

    Raises :class:`Owned` if a living process holds it, :class:`Unavailable` if it cannot be had or written.
    """

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._path = self._place()
        self._fd = self._lock()
        try:
            self._former = os.pread(self._fd, _LONGEST, 0) or self._move_in()
            self._write(_encode({}))
        except BaseException:
            os.close(self._fd)
            raise

    def tell(self, interfaces: Mapping[str, int]) -> None:
        """Write down which interfaces are held now; until then they are those of whoever was here before."""
        self._former = b""
        self._write(_encode(interfaces))

    def _write(self, data: bytes) -> None:
        try:
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))
        except OSError as error:
            raise Unavailable(f"the lock {self._path} cannot be written: {error.strerror}") from error

    def close(self, *, keep: bool = False) -> None:
        """Let go; ``keep`` leaves the file, which says whose pins there are. Safe to call twice."""
        if self._fd < 0:
            return
        if self._former:
            # Nothing was changed here, so it says what it said.
            with contextlib.suppress(Unavailable):
                self._write(self._former)
        elif not keep:
            _remove(self._path)
        os.close(self._fd)
        self._fd = -1

    def _place(self) -> Path:
        folder = folder_of(self.identity.name)
        if folder is None:
            raise Unavailable(f"no folder for the lock of the fast path: {bases()[0]} cannot be written to")
        return folder / f"{self.identity.namespace}{_SUFFIX}"

    def _move_in(self) -> bytes:
        """What an earlier version left at its place of this identity's."""
        for path in _former_places(self.identity):
            if is_locked(path):
                raise self._owned(path)
            with contextlib.suppress(OSError):
                left = path.read_bytes()[:_LONGEST]
                path.unlink()
                return left
        return b""

    def _owned(self, path: Path) -> Owned:
        owner = _read(path, self.identity, alive=True)
        who = f"process {owner.pid}" if owner.pid else "another process"
        return Owned(
            f"a broker named {self.identity.name!r} already has a fast path in this network "
            f"namespace ({who}); stop it, or give this one another broker.name"
        )

    def _lock(self) -> int:
        patience = _PATIENCE
        while True:
            try:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            except FileNotFoundError:
                # Whoever let go of the folder last has removed it.
                self._path = self._place()
                continue
            except OSError as error:
                raise Unavailable(f"cannot open the lock {self._path}: {error.strerror}") from error
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, WHOLE_FILE)
                # Those who may not write to it are to see it, whatever the umask.
                os.fchmod(fd, 0o644)
                # Whoever held it before may have removed the file between our two calls.
                if _same_file(fd, self._path):
                    return fd
            except (BlockingIOError, PermissionError):
                os.close(fd)
                if patience:
                    patience -= 1
                    time.sleep(_PAUSE)
                    continue
                raise self._owned(self._path) from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)


def _encode(interfaces: Mapping[str, int]) -> bytes:
    return json.dumps({"pid": os.getpid(), "interfaces": dict(interfaces)}).encode()


def owners() -> Iterator[Owner]:
    """Every fast path that a process holds, or held when it ended without cleaning up."""
    for path, identity in _files():
        yield _read(path, identity, alive=is_locked(path))


def forget(identity: Identity) -> None:
    """Remove the lock file of a broker that is gone."""
    for path, found in list(_files()):
        if found != identity:
            continue
        # Under the lock: what a starting broker has just taken must not lose its file.
        with contextlib.suppress(OSError), path.open("rb+") as file:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, WHOLE_FILE)
            if _same_file(file.fileno(), path):
                _remove(path)


def _files() -> Iterator[tuple[Path, Identity]]:
    for name, folder in folders():
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            if (namespace := path.name.removesuffix(_SUFFIX)).isdecimal():
                yield path, Identity(name, int(namespace))
    for base in bases():
        for path in sorted(base.glob(f"*~*{_SUFFIX}")):
            quoted, _, namespace = path.name.removesuffix(_SUFFIX).rpartition("~")
            if namespace.isdecimal():
                yield path, Identity(unquote(quoted), int(namespace))


def _former_places(identity: Identity) -> list[Path]:
    """Where earlier versions had the file."""
    return [base / f"{quote(identity.name)}~{identity.namespace}{_SUFFIX}" for base in bases()]


def _remove(path: Path) -> None:
    """Remove a lock file, and its folder if nothing else is in it."""
    with contextlib.suppress(OSError):
        path.unlink()
        if path.parent not in bases():
            path.parent.rmdir()


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _read(path: Path, identity: Identity, *, alive: bool) -> Owner:
    """What stands in a file, if it was written already."""
    try:
        text = json.loads(path.read_bytes())
        interfaces = {str(name): int(index) for name, index in text["interfaces"].items()}
        return Owner(identity, int(text["pid"]), interfaces, alive)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Owner(identity, 0, {}, alive)
