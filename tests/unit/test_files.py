"""What a command is told to write is whole, or what it was; a lock that cannot be written is told by name."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.whole import WRITERS

from tempos import Unavailable, _places
from tempos._files import write_whole
from tempos.errors import LocalError

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


@pytest.mark.parametrize("who", WRITERS)
def test_who_keeps_files_has_them_whole(tmp_path: Path, who: str) -> None:
    """A full disk and a kill before the end leave what was there; the next one leaves nothing else."""
    write = WRITERS[who]
    path = write(tmp_path, "first")
    before = path.read_bytes()
    mode = path.stat().st_mode & 0o777
    with little_room(1), contextlib.suppress(OSError, Unavailable, LocalError):
        write(tmp_path, "second")
    assert path.read_bytes() == before
    kept = _everything(tmp_path)
    killed = subprocess.run(
        [sys.executable, "-m", "support.whole", who, str(tmp_path)],
        cwd=Path(__file__).parent.parent, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert path.read_bytes() == before
    assert len(_everything(tmp_path)) == len(kept) + 1
    write(tmp_path, "third")
    assert b"third" in path.read_bytes()
    assert _everything(tmp_path) == kept
    assert path.stat().st_mode & 0o777 == mode


def _everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_what_another_is_writing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two write one file at once: each has it whole, and the one that ends later is what stays."""
    target = tmp_path / "file"
    on_its_way, go_on = threading.Event(), threading.Event()
    sync = os.fsync

    def wait(number: int) -> None:
        if threading.current_thread() is slow:
            on_its_way.set()
            go_on.wait(30)
        sync(number)

    monkeypatch.setattr(os, "fsync", wait)
    slow = threading.Thread(target=write_whole, args=(target, b"slow"))
    slow.start()
    assert on_its_way.wait(30)
    write_whole(target, b"quick")
    assert (target.read_bytes(), len(_everything(tmp_path))) == (b"quick", 2)
    go_on.set()
    slow.join(30)
    assert (target.read_bytes(), _everything(tmp_path)) == (b"slow", {"file"})


def test_what_only_looks_like_a_part_stays(tmp_path: Path) -> None:
    names = {"file", ".file.part", ".file.backup01.part", ".other.0a1b2c3d.part"}
    for name in names:
        (tmp_path / name).write_text("mine")
    write_whole(tmp_path / "file", b"after")
    assert _everything(tmp_path) == names


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
