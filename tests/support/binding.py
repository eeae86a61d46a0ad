"""A control group whose processes have every socket bound to the interface of index 2, as in a VRF."""

from __future__ import annotations

import ctypes
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.bpf import compiled, require_compiler
from support.privileges import require
from tempos_bpf.objects import BpfObject

SOURCE = Path(__file__).with_name("binding.bpf.c")
_SYS_BPF, _PROG_ATTACH, _INET_SOCK_CREATE = 321, 8, 2


@contextmanager
def binding_group() -> Iterator[tuple[str, ...]]:
    """What to put before a command so that it runs in such a group."""
    require_compiler()
    require(None if os.uname().machine == "x86_64" else "the number of bpf(2) is known for x86-64 only")
    root = _cgroups()
    require(None if root else "there is no control group file system of version 2")
    group = Path(tempfile.mkdtemp(prefix="tempos-test-", dir=root))
    try:
        with BpfObject(compiled(SOURCE)) as loaded:
            target = os.open(group, os.O_RDONLY)
            try:
                _attach(target, loaded.program("bind_socket").fd)
            finally:
                os.close(target)
            yield "sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"
    finally:
        group.rmdir()


def _cgroups() -> Path | None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return next((Path(each[1]) for each in mounts if each[2] == "cgroup2"), None)


def _attach(target: int, program: int) -> None:
    attributes = struct.pack("IIII", target, program, _INET_SOCK_CREATE, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_BPF, _PROG_ATTACH, attributes, len(attributes)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
