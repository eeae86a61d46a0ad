"""Reads again what only root can read, for a broker that has become another user.

A configuration with keys in it is for root's eyes, and a reload reads it anew. So before the broker changes
its user it leaves a process behind, which may do nothing but read (CAP_DAC_READ_SEARCH), and reads nothing
but the files it was made for, under the very paths that root has named. It ends with the broker: its only
line to the world is a pair of sockets.

Rule: it must not read for the broker's user what that user could put there itself. A path on which that user
may change any folder, where it could put a link to somebody's secrets, is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from tempos import Unavailable
from tempos_broker import privileges
from tempos_broker.privileges import User
from tempos_daemon.files import MOST

#: What gives the bytes of a file, of which the path is one that it knows; raises :class:`OSError`.
Read = Callable[[Path], bytes]

#: An answer's head: 0 or an errno, and how many bytes follow.
_HEAD = struct.Struct("=iI")
#: A question: which of the files.
_WHICH = struct.Struct("=I")
#: Seconds that an answer may take.
_PATIENCE = 10.0
#: Bytes of a file; one more than a configuration may have.
_MOST = MOST + 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


class Reader:
    """The broker's end. ``read`` tries by this process's own rights first."""

    def __init__(self, paths: Sequence[Path], line: socket.socket) -> None:
        self._paths = list(paths)
        self._line = line
        self._one_at_a_time = threading.Lock()

    def read(self, path: Path) -> bytes:
        """The bytes of a file; raises :class:`OSError`."""
        try:
            with path.open("rb") as file:
                return file.read(_MOST)
        except PermissionError:
            if path not in self._paths:
                raise
        with self._one_at_a_time:
            try:
                self._line.sendall(_WHICH.pack(self._paths.index(path)))
                code, size = _HEAD.unpack(_exactly(self._line, _HEAD.size))
                content = _exactly(self._line, size)
            except (OSError, EOFError) as error:
                raise PermissionError(
                    errno.EACCES, f"{os.strerror(errno.EACCES)}, and what could read it is gone ({error})"
                ) from error
        if code == errno.EPERM:
            reason = "on the way to it is a folder that the broker's user may change"
            raise PermissionError(errno.EACCES, f"{os.strerror(errno.EACCES)}: {reason}")
        if code:
            raise OSError(code, os.strerror(code))
        return content

    def close(self) -> None:
        """Let the other process end; safe to call twice."""
        self._line.close()


def is_needed(paths: Sequence[Path], user: User) -> bool:
    """Whether ``user``, who has no privilege, may come to need it to read these.

    Somebody else than root may be denied tomorrow what it can read today: configurations are put in the place
    of others with other rights.
    """
    return user.uid != 0 or not all(
        _has(path.stat(), user, stat.S_IRUSR)
        and all(_has(each.stat(), user, stat.S_IXUSR) for each in _ways(path))
        for path in paths
    )


def start(paths: Sequence[Path], user: User) -> Reader:
    """Leave the process behind that reads these for a broker that is about to become ``user``.

    Before there is a second thread. Raises :class:`Unavailable`.
    """
    ours, theirs = socket.socketpair()
    ours.settimeout(_PATIENCE)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        child = os.fork()
    except OSError as error:
        ours.close()
        theirs.close()
        raise Unavailable(f"no process can be had to read {paths[0]} again: {error.strerror}") from error
    if not child:
        ours.close()
        _serve(theirs, [path.absolute() for path in paths], user)
    theirs.close()
    return Reader(paths, ours)


def _serve(line: socket.socket, paths: Sequence[Path], user: User) -> NoReturn:
    try:
        for number in _SIGNALS:
            # What is sent to everybody is the broker's business; this ends when the broker does.
            signal.signal(number, signal.SIG_IGN)
        os.closerange(3, line.fileno())
        os.closerange(line.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        privileges.keep_reading()
        while True:
            (which,) = _WHICH.unpack(_exactly(line, _WHICH.size))
            code, content = _answer(paths[which], user)
            line.sendall(_HEAD.pack(code, len(content)) + content)
    except (EOFError, OSError):
        os._exit(0)
    finally:
        # Whatever it was: nothing of the broker's own goes on here.
        os._exit(1)


def _answer(path: Path, user: User) -> tuple[int, bytes]:
    try:
        if user.uid and any(_may_change(folder.stat(), user) for folder in _ways(path)):
            return errno.EPERM, b""
        with contextlib.closing(_Plain(path)) as file:
            return 0, file.content()
    except OSError as error:
        return error.errno or errno.EIO, b""


class _Plain:
    """A plain file, open for reading."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def content(self) -> bytes:
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        pieces: list[bytes] = []
        while (piece := os.read(self._fd, 1 << 20)) and sum(map(len, pieces)) < _MOST:
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        os.close(self._fd)


def _ways(path: Path) -> Iterator[Path]:
    """The folders on the way to a file, by the path as it is written and by the one that links lead to."""
    yield from path.parents
    yield from Path(os.path.realpath(path)).parents


def _has(found: os.stat_result, user: User, right: int) -> bool:
    """Whether a user has a right, given as its owner's, by the mode alone."""
    if found.st_uid == user.uid:
        return bool(found.st_mode & right)
    return bool(found.st_mode & (right >> 3 if found.st_gid == user.gid else right >> 6))


def _may_change(folder: os.stat_result, user: User) -> bool:
    """Whether a user may put things into a folder in the place of others'."""
    if folder.st_uid == user.uid:
        return True
    return _has(folder, user, stat.S_IWUSR) and not folder.st_mode & stat.S_ISVTX


def _exactly(line: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        piece = line.recv(size - len(got))
        if not piece:
            raise EOFError("it has ended")
        got += piece
    return bytes(got)
