"""What a command is told to write is whole, or what it was; a lock that cannot be written is told by name."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tempos import Unavailable, _places
from tempos._files import write_whole

ownership = pytest.importorskip("tempos_fastpath.survival.ownership")


@contextmanager
def little_room(size: int) -> Iterator[None]:
    """No file may have more bytes, as on a disk that gets full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("there", [None, b"before"])
def test_without_room_a_file_is_what_it_was(tmp_path: Path, there: bytes | None) -> None:
    target = tmp_path / "out.toml"
    if there is not None:
        target.write_bytes(there)
    with little_room(1000), pytest.raises(OSError, match="large"):
        write_whole(target, bytes(5000))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if there is None else [there])


def test_a_file_is_replaced_with_its_mode_behind_its_link(tmp_path: Path) -> None:
    target, link = tmp_path / "file", tmp_path / "link"
    target.write_bytes(b"before")
    target.chmod(0o644)
    link.symlink_to(target)
    write_whole(link, b"after")
    assert (link.is_symlink(), target.read_bytes(), target.stat().st_mode & 0o777) == (True, b"after", 0o644)
    write_whole(target, b"secret", 0o600)
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"secret", 0o600)
    write_whole(Path(os.devnull), b"anywhere")
    assert not Path(os.devnull).is_file()


def test_a_lock_that_cannot_be_written_is_let_go_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker serves by the slow path then, and its status says why."""
    monkeypatch.setattr(_places, "SYSTEM", tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    identity = ownership.Identity("full", 7)

    def no_room(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", no_room)
        with pytest.raises(Unavailable, match=r"the lock .*7\.fastpath\.lock cannot be written: No space"):
            ownership.Ownership(identity)
    held = ownership.Ownership(identity)
    with pytest.raises(ownership.Owned):
        ownership.Ownership(identity)
    held.close()
