"""What tools see of files and programs: opened, read, created and deleted, started; by every call there is.

Acts of observed.py: each gets its options and gives what it did. ``count``: how often; in ``folder``
each process has its own :func:`place`, by its ``index``.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

Options = dict[str, Any]

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_OPEN, _CREAT, _PREADV, _OPENAT2 = 2, 85, 295, 437
_NARROW_READ, _NARROW_OPEN = 3, 5
_AT_FDCWD = -100
#: A function(number, a, b, c) that makes a 32-bit program's system call: the number in eax, then int 0x80.
_NARROW_CODE = bytes.fromhex("53 89 f8 89 f3 89 d6 89 ca 89 f1 cd 80 48 98 5b c3")


def _call(number: int, *arguments: object) -> int:
    """A system call by its number; what the kernel says, errors as -errno."""
    result = int(_LIBC.syscall(ctypes.c_long(number), *arguments))
    return -ctypes.get_errno() if result < 0 else result


def _below_4g(size: int, code: bytes = b"") -> mmap.mmap:
    """Memory that a 32-bit system call can point to."""
    area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40,
                     mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)  # fmt: skip
    area[: len(code)] = code
    return area


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Narrow:
    """System calls as 32-bit programs make them, whose numbers mean something else."""

    def __init__(self) -> None:
        self._code, self._room = _below_4g(mmap.PAGESIZE, _NARROW_CODE), _below_4g(mmap.PAGESIZE)
        self._call = ctypes.CFUNCTYPE(*[ctypes.c_long] * 5)(self._at(self._code))

    def open(self, path: bytes) -> int:
        self._room[: len(path) + 1] = path + b"\0"
        return int(self._call(_NARROW_OPEN, self._at(self._room), os.O_RDONLY, 0))

    def read(self, descriptor: int, size: int) -> int:
        return int(self._call(_NARROW_READ, descriptor, self._at(self._room), size))

    @staticmethod
    def _at(area: mmap.mmap) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(area))


def machine_pid() -> int:
    """Of this process; in a namespace of processes os.getpid() is another."""
    return int(str(Path("/proc/self").readlink()))


def place(folder: Path, index: int) -> Path:
    """The folder of a process in ``folder``; it is made before anything is watched, with a file `there`."""
    return folder / f"place-{index}"


def _folder(options: Options) -> Path:
    return place(Path(options["folder"]), options["index"])


def opens(options: Options) -> Options:
    """Files opened and not opened, by every call there is: rows of descriptor, errno and path."""
    rows: list[tuple[int, int, str]] = []
    folder, narrow = _folder(options), Narrow()
    there, long = folder / "opened", folder / ("l" * 200) / ("m" * 200)
    missing = folder / "missing"
    how = struct.pack("QQQ", os.O_RDONLY, 0, 0)

    def note(result: int, path: Path | str) -> None:
        rows.append((max(result, -1), max(-result, 0), str(path)))
        if result >= 0:
            os.close(result)

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    note(os.open(there, os.O_WRONLY | os.O_CREAT), there)
    for _ in range(options["count"]):
        note(os.open(there, os.O_RDONLY), there)
        note(os.open("opened", os.O_RDONLY, dir_fd=descriptor), "opened")
        note(_call(_OPEN, bytes(there), os.O_RDONLY, 0), there)
        note(_call(_CREAT, bytes(there), 0o600), there)
        note(_call(_OPENAT2, _AT_FDCWD, bytes(there), how, len(how)), there)
        note(narrow.open(bytes(there)), there)
        note(_call(_OPEN, bytes(missing), os.O_RDONLY, 0), missing)
        note(_call(_OPEN, bytes(long), os.O_RDONLY, 0), long)
        note(_call(_OPEN, None, os.O_RDONLY, 0), "")
    os.close(descriptor)
    return {"rows": rows}


def reads(options: Options) -> Options:
    """Reads by every call there is: how often, by call and the name of the file."""
    done: Counter[str] = Counter()
    folder, narrow = _folder(options), Narrow()
    name = options["name"]
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT)
    only_write = os.open(folder / f"{name}-not", os.O_WRONLY | os.O_CREAT)
    event = os.eventfd(options["count"])
    room = bytearray(8)
    vector = _Vector(ctypes.addressof(ctypes.c_char.from_buffer(room)), len(room))
    for _ in range(options["count"]):
        os.read(descriptor, 8)
        narrow.read(descriptor, 8)
        os.pread(descriptor, 8, 0)
        os.readv(descriptor, [room])
        os.preadv(descriptor, [room], 0, os.RWF_HIPRI)
        _call(_PREADV, descriptor, ctypes.byref(vector), 1, 0, 0)
        with suppress(OSError):
            os.read(only_write, 8)
        with suppress(OSError):
            os.read(10_000, 8)
        done.update({
            f"filename {name}": 2, f"pread64 {name}": 1, f"readv {name}": 1, f"filename {name}-not": 1,
            "filename None": 1, f"preadv {name}": 1, f"preadv2 {name}": 1,
        })  # fmt: skip
    os.read(event, 8)
    done["filename eventfd"] += 1
    for each in (descriptor, only_write, event):
        os.close(each)
    return {"counts": done}


def lives(options: Options) -> Options:
    """Files created and deleted by every kind of path: names, each with its least and greatest age in ms."""
    folder, rows, alike = _folder(options), [], options["index"] % 10
    (folder / "sub").mkdir()
    (folder / "link").symlink_to(folder / "sub")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.chdir(folder)
    ways: dict[str, tuple[Callable[[str], None], Callable[[str], str]]] = {
        "relative": (_create, _unlink),
        "absolute": (lambda name: _create(f"{folder}/{name}"), lambda name: _unlink(f"{folder}/{name}")),
        "descriptor": (_create, lambda name: _unlink(name, descriptor)),
        "renamed": (
            lambda name: _rename(name, f"sub/{name}-again"),
            lambda name: _unlink(f"sub/{name}-again"),
        ),
        "link": (lambda name: _create(f"sub/{name}"), lambda name: _unlink(f"link/{name}")),
        "dots": (lambda name: _create(f"./{name}"), lambda name: _unlink(f"sub/.././/{name}")),
        "narrow": (lambda name: _creat(f"{folder}/{name}"), _unlink),
    }
    born: list[tuple[str, str, int, int]] = []
    for turn in range(options["count"]):
        for way, (create, _) in ways.items():
            name, before = f"{way}-{turn}-{alike}", time.monotonic_ns()
            create(name)
            born.append((way, name, before, time.monotonic_ns()))
    for way, name, before, after in born:
        begun = time.monotonic_ns()
        gone = ways[way][1](name)
        rows.append((Path(gone).name, (begun - after) / 1e6, (time.monotonic_ns() - before) / 1e6))
    # What was there before, what is replaced, and folders are no files that live here.
    _unlink("there")
    _create("stays")
    _create("replaces")
    Path("replaces").rename("stays")
    Path("link").unlink()
    Path("sub").rmdir()
    os.close(descriptor)
    os.chdir("/")
    return {"rows": rows}


def _create(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def _creat(path: str) -> None:
    os.close(_call(_CREAT, path.encode(), 0o600))


def _rename(name: str, to: str) -> None:
    _create(name)
    Path(name).rename(to)


def _unlink(path: str, folder: int | None = None) -> str:
    os.unlink(path, dir_fd=folder)
    return path


def execs(options: Options) -> Options:
    """Programs started, and one that is not there: rows of process id and arguments. ``program``: a path."""
    rows = []
    for turn in range(options["count"]):
        arguments = [Path(options["program"]).name, str(turn), "two words", "x" * 300]
        child = os.posix_spawn(options["program"], arguments, {})
        # As /proc has it; it is there until it is waited for.
        number = int(Path("/proc/thread-self/children").read_text())
        os.waitpid(child, 0)
        rows.append((number, " ".join(arguments)))
        with suppress(FileNotFoundError):
            os.posix_spawn("/nonexistent/program", ["missing"], {})
    return {"rows": rows}
