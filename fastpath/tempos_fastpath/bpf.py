"""Typed access to libbpf: objects, programs, maps, XDP links, test runs. No C pointer leaves this file.

The way of an object is open -> set rodata -> load (the three are :class:`BpfObject`'s constructor) ->
attach -> close. Every refusal of the kernel is a :class:`~tempos_fastpath.errors.BpfError` that
carries the errno and, for a program, the tail of the verifier's log. All calls may block and may be
made from any thread; they act in the network namespace of the calling thread.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import mmap
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tempos import LocalError
from tempos_fastpath.errors import BpfError, InterfaceBusy, NotBuilt

try:
    from tempos_fastpath._libbpf import ffi, lib
except ImportError as error:
    raise NotBuilt(
        f"the fast path's extension was not built or cannot be loaded ({error}); "
        "install clang, libbpf-dev and a C compiler, then tempos[fastpath] again"
    ) from error

lib.tempos_messages_capture()

_LOG_SIZE = 1 << 20
_LOG_LINES = 24
_MAX_FRAME = 1 << 16


class XdpMode(str, enum.Enum):
    """Where an XDP program runs: in the driver, or on socket buffers after it."""

    NATIVE = "native"
    GENERIC = "generic"


class Verdict(enum.IntEnum):
    """What an XDP program returns."""

    ABORTED = 0
    DROP = 1
    PASS = 2
    TX = 3
    REDIRECT = 4


class MapType(enum.IntEnum):
    """The map types this project makes or looks at."""

    HASH = 1
    ARRAY = 2
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_PERCPU_HASH = 10
    ARRAY_OF_MAPS = 12
    DEVMAP = 14
    XSKMAP = 17
    DEVMAP_HASH = 25
    RINGBUF = 27


_PER_CPU = (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH)


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says of a loaded program; the run figures grow only while statistics are on."""

    id: int
    name: str
    verified_insns: int
    jited_bytes: int
    run_time_ns: int
    run_cnt: int


@dataclass(frozen=True, slots=True)
class TestRun:
    """The outcome of a test run; ``duration_ns`` is the kernel's average over the repetitions."""

    __test__ = False  # not a test class, whatever pytest makes of the name

    verdict: int
    data: bytes
    duration_ns: int


@dataclass(frozen=True, slots=True)
class AttachedXdp:
    """An XDP program that an interface carries."""

    program_id: int
    name: str
    mode: str


class SharedArray:
    """A ``BPF_F_MMAPABLE`` array in this process's memory; offsets in bytes, values u64.

    The operations are atomic against the kernel's programs and against other processes.
    """

    def __init__(self, fd: int, size: int) -> None:
        pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            self._memory = mmap.mmap(fd, pages, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            raise BpfError("cannot map the array into memory", error.errno or 0) from error
        self._view: Any = ffi.from_buffer("char[]", self._memory, require_writable=True)
        self._size = size

    def fetch_add(self, offset: int, count: int) -> int:
        """Add ``count``; returns the value before."""
        return int(lib.tempos_atomic_fetch_add(self._at(offset), count))

    def load(self, offset: int) -> int:
        return int(lib.tempos_atomic_load(self._at(offset)))

    def store(self, offset: int, value: int) -> None:
        lib.tempos_atomic_store(self._at(offset), value)

    def close(self) -> None:
        """Unmap; safe to call twice."""
        if self._view is not None:
            ffi.release(self._view)
            self._view = None
            self._memory.close()

    def _at(self, offset: int) -> Any:
        if self._view is None:
            raise LocalError("the shared array is closed")
        if offset % 8 or not 0 <= offset <= self._size - 8:
            raise LocalError(f"offset {offset} is not one of a u64 inside {self._size} bytes")
        return self._view + offset


class Map:
    """A BPF map. A key may be bytes or, for integer keys, an int; values are bytes."""

    def __init__(self, fd: int, *, owned: bool) -> None:
        info = ffi.new("struct tempos_map_info *")
        _check(lib.tempos_map_info(fd, info), "cannot read what a map is")
        self._fd = fd
        self._owned = owned
        self.name = _text(info.name)
        self.id = int(info.id)
        self.type = int(info.type)
        self.key_size = int(info.key_size)
        self.value_size = int(info.value_size)
        self.max_entries = int(info.max_entries)
        self._stride = (self.value_size + 7) // 8 * 8

    @property
    def fd(self) -> int:
        return self._fd

    def lookup(self, key: int | bytes) -> bytes | None:
        """The value of ``key``, or None; of a per-CPU map use :meth:`lookup_per_cpu`."""
        if self.type in _PER_CPU:
            raise LocalError(f"map {self.name} holds one value per CPU")
        return self._lookup(key, self.value_size)

    def lookup_per_cpu(self, key: int | bytes) -> tuple[bytes, ...] | None:
        """The value of ``key`` on every possible CPU, or None."""
        if self.type not in _PER_CPU:
            raise LocalError(f"map {self.name} holds one value for all CPUs")
        data = self._lookup(key, self._stride * possible_cpus())
        if data is None:
            return None
        return tuple(data[at : at + self.value_size] for at in range(0, len(data), self._stride))

    def update(self, key: int | bytes, value: bytes | Map, flags: int = 0) -> None:
        """Set ``key``; of a map of maps the value is the inner map.

        For a map of maps this returns when no program uses the old inner map any more (an RCU grace
        period, some 10 ms).
        """
        data = value.fd.to_bytes(4, sys.byteorder) if isinstance(value, Map) else value
        expected = self._stride * possible_cpus() if self.type in _PER_CPU else self.value_size
        if len(data) != expected:
            raise LocalError(f"map {self.name}: a value of {len(data)} bytes, {expected} are needed")
        result = lib.tempos_map_update(self._fd, self._key(key), ffi.from_buffer(data), flags)
        _check(result, f"cannot set {key!r} in map {self.name}")

    def delete(self, key: int | bytes) -> bool:
        """Remove ``key``; False if it was not there."""
        result = lib.tempos_map_delete(self._fd, self._key(key))
        if result == -errno.ENOENT:
            return False
        _check(result, f"cannot remove {key!r} from map {self.name}")
        return True

    def mmap(self) -> SharedArray:
        """The array in this process's memory; for arrays made with ``BPF_F_MMAPABLE``."""
        return SharedArray(self._fd, self._stride * self.max_entries)

    def close(self) -> None:
        """Close a map that :func:`create_map` made; those of an object close with it."""
        if self._owned and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Map:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()

    def _lookup(self, key: int | bytes, size: int) -> bytes | None:
        value = ffi.new("char[]", size)
        result = lib.tempos_map_lookup(self._fd, self._key(key), value)
        if result == -errno.ENOENT:
            return None
        _check(result, f"cannot read {key!r} of map {self.name}")
        return bytes(ffi.buffer(value, size))

    def _key(self, key: int | bytes) -> Any:
        data = key.to_bytes(self.key_size, sys.byteorder) if isinstance(key, int) else key
        if len(data) != self.key_size:
            raise LocalError(f"map {self.name}: a key of {len(data)} bytes, {self.key_size} are needed")
        return ffi.from_buffer(data)


class Program:
    """A loaded program of an object."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self._fd = fd

    @property
    def fd(self) -> int:
        return self._fd

    def info(self) -> ProgramInfo:
        info = ffi.new("struct tempos_program_info *")
        _check(lib.tempos_program_info(self._fd, info), f"cannot read what program {self.name} is")
        return ProgramInfo(int(info.id), _text(info.name), int(info.verified_insns), int(info.jited_len),
                           int(info.run_time_ns), int(info.run_cnt))  # fmt: skip

    def run(self, frame: bytes, *, repeat: int = 1, ingress_ifindex: int = 0) -> TestRun:
        """Run on one frame (``BPF_PROG_TEST_RUN``) and give what came out. A redirect is not carried out."""
        out = ffi.new("char[]", _MAX_FRAME)
        result = ffi.new("struct tempos_test_run *")
        code = lib.tempos_run(
            self._fd, ffi.from_buffer(frame), len(frame), out, _MAX_FRAME, ingress_ifindex, repeat, result
        )
        _check(code, f"cannot test-run program {self.name}")
        data = bytes(ffi.buffer(out, result.data_size_out))
        return TestRun(int(result.retval), data, int(result.duration_ns))

    def run_live(self, frame: bytes, *, repeat: int, ingress_ifindex: int, batch: int = 64) -> None:
        """Send ``repeat`` live frames through the program; redirects really leave. Blocks until all have.

        The kernel recycles the pages with what programs wrote into them.
        """
        code = lib.tempos_run_live(
            self._fd, ffi.from_buffer(frame), len(frame), ingress_ifindex, repeat, batch
        )
        _check(code, f"cannot run live frames through program {self.name}")

    def run_each(self, frames: Sequence[bytes], *, ingress_ifindex: int = 0) -> list[int]:
        """Run once on each frame, without Python in between; gives the verdicts."""
        sizes = ffi.new("__u32[]", [len(frame) for frame in frames])
        verdicts = ffi.new("__u32[]", len(frames))
        done = lib.tempos_run_each(
            self._fd, ffi.from_buffer(b"".join(frames)), sizes, len(frames), ingress_ifindex, verdicts
        )
        _check(done, f"cannot test-run program {self.name}")
        if done != len(frames):
            raise LocalError(f"the kernel refused to test-run frame {done} ({sizes[done]} bytes)")
        return list(verdicts)


class BpfObject:
    """An object file, opened, configured and loaded.

    ``rodata`` sets global variables by name before the load, ``share`` makes maps of this object the
    given existing ones. Raises :class:`NotBuilt` if the file is missing, :class:`BpfError` otherwise.
    """

    def __init__(
        self,
        path: Path,
        rodata: Mapping[str, bytes] | None = None,
        share: Mapping[str, Map] | None = None,
    ) -> None:
        try:
            image = path.read_bytes()
        except OSError as error:
            raise NotBuilt(
                f"the BPF object {path.name} was not built ({error.strerror}); "
                "install clang and libbpf-dev, then tempos[fastpath] again"
            ) from error
        self.name = path.name.partition(".")[0]
        self._log: Any = ffi.new("char[]", _LOG_SIZE)
        handle = ffi.new("struct bpf_object **")
        code = lib.tempos_object_open(image, len(image), self.name.encode(), self._log, _LOG_SIZE, handle)
        _check(code, f"cannot open the BPF object {path.name}")
        self._object: Any = handle[0]
        self._programs: dict[str, Program] = {}
        self._maps: dict[str, Map] = {}
        try:
            self._configure(rodata or {}, share or {})
            self._load()
        except BaseException:
            self.close()
            raise

    def program(self, name: str) -> Program:
        if name not in self._programs:
            raise LocalError(f"{self.name} has no program {name!r}; it has {', '.join(self._programs)}")
        return self._programs[name]

    def map(self, name: str) -> Map:
        if name not in self._maps:
            raise LocalError(f"{self.name} has no map {name!r}; it has {', '.join(self._maps)}")
        return self._maps[name]

    def close(self) -> None:
        """Release programs and maps that nothing else holds; safe to call twice."""
        self._programs.clear()
        self._maps.clear()
        if self._object is not None:
            lib.tempos_object_close(self._object)
            self._object = None

    def __enter__(self) -> BpfObject:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()

    def _configure(self, rodata: Mapping[str, bytes], share: Mapping[str, Map]) -> None:
        for name, value in rodata.items():
            code = lib.tempos_object_set_variable(self._object, name.encode(), value, len(value))
            _check(code, f"cannot set the variable {name!r} of {self.name} to {len(value)} bytes")
        handles = {_text(lib.tempos_map_name(handle)): handle for handle in self._map_handles()}
        for name, shared in share.items():
            if name not in handles:
                raise LocalError(f"{self.name} has no map {name!r}; it has {', '.join(handles)}")
            _check(lib.tempos_map_reuse(handles[name], shared.fd), f"cannot share the map {name!r}")

    def _load(self) -> None:
        code = lib.tempos_object_load(self._object)
        log = "\n".join(_text(self._log).splitlines()[-_LOG_LINES:]) if code < 0 else ""
        _check(code, f"the kernel refused the BPF object {self.name}", log)
        handle = lib.tempos_object_next_program(self._object, ffi.NULL)
        while handle != ffi.NULL:
            name = _text(lib.tempos_program_name(handle))
            self._programs[name] = Program(name, lib.tempos_program_fd(handle))
            handle = lib.tempos_object_next_program(self._object, handle)
        for handle in self._map_handles():
            fd = lib.tempos_map_fd(handle)
            if fd >= 0:
                self._maps[_text(lib.tempos_map_name(handle))] = Map(fd, owned=False)

    def _map_handles(self) -> Iterator[Any]:
        handle = lib.tempos_object_next_map(self._object, ffi.NULL)
        while handle != ffi.NULL:
            yield handle
            handle = lib.tempos_object_next_map(self._object, handle)


class XdpLink:
    """An attached XDP program. Closing the link, or the end of the process, detaches it."""

    def __init__(self, fd: int, ifindex: int, mode: XdpMode) -> None:
        self._fd = fd
        self.ifindex = ifindex
        self.mode = mode

    def update(self, program: Program) -> None:
        """Put another program in its place, atomically for every packet."""
        _check(lib.tempos_link_update(self._fd, program.fd), f"cannot swap in program {program.name}")

    def close(self) -> None:
        """Detach; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> XdpLink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()


def attach_xdp(program: Program, ifindex: int, mode: XdpMode) -> XdpLink:
    """Attach through a ``bpf_link``; raises :class:`InterfaceBusy` where another program sits.

    ``ifindex`` is one of the calling thread's network namespace.
    """
    fd = lib.tempos_xdp_attach(program.fd, ifindex, mode is XdpMode.GENERIC)
    if fd >= 0:
        return XdpLink(fd, ifindex, mode)
    if fd in (-errno.EBUSY, -errno.EEXIST):
        attached = query_xdp(ifindex)
        if attached is not None:
            raise InterfaceBusy(_interface_name(ifindex), attached.name, attached.program_id)
    _check(fd, f"cannot attach XDP to {_interface_name(ifindex)} in {mode.value} mode")
    raise AssertionError("a negative result raises")


def query_xdp(ifindex: int) -> AttachedXdp | None:
    """The XDP program that an interface carries, or None."""
    found = ffi.new("struct tempos_xdp_query *")
    _check(lib.tempos_xdp_query(ifindex, found), f"cannot ask what {_interface_name(ifindex)} carries")
    by_mode = {"native": found.drv_prog_id, "generic": found.skb_prog_id, "offloaded": found.hw_prog_id}
    for mode, program_id in by_mode.items():
        if program_id:
            name = ffi.new("char[]", lib.TEMPOS_NAME_LEN)
            # The program may be gone by now, or hidden from this user; its id still says which it was.
            lib.tempos_program_name_by_id(program_id, name)
            return AttachedXdp(int(program_id), _text(name), mode)
    return None


def create_map(
    name: str, kind: MapType, *, key_size: int, value_size: int, max_entries: int, flags: int = 0
) -> Map:
    """A map of its own, for instance the inner one of a map of maps; the caller closes it."""
    fd = lib.tempos_map_create(name.encode()[:15], kind, key_size, value_size, max_entries, flags)
    _check(fd, f"cannot create the map {name}")
    return Map(fd, owned=True)


@contextlib.contextmanager
def statistics() -> Iterator[None]:
    """While inside, the kernel counts runs and run time of every program (costs each some 20 ns)."""
    fd = lib.tempos_stats_enable()
    _check(fd, "cannot turn BPF statistics on")
    try:
        yield
    finally:
        os.close(fd)


def struct_new(kind: str) -> Any:
    """A zeroed struct of abi.h to fill in, by its C name; :func:`struct_bytes` gives its bytes."""
    return ffi.new(f"{kind} *")


def struct_bytes(value: Any) -> bytes:
    """The bytes of a struct as the kernel's maps take them."""
    return bytes(ffi.buffer(value))


def struct_size(kind: str) -> int:
    """Bytes of a struct of abi.h."""
    return int(ffi.sizeof(kind))


def possible_cpus() -> int:
    """How many values a key of a per-CPU map has."""
    return _check(lib.tempos_possible_cpus(), "cannot tell the number of CPUs")


def _check(code: int, what: str, log: str = "") -> int:
    if code >= 0:
        lib.tempos_messages_forget()
        return code
    messages = ffi.new("char[]", 4096)
    taken = lib.tempos_messages_take(messages, 4096)
    raise BpfError(what, -code, ffi.buffer(messages, taken)[:].decode(errors="replace"), log)


def _text(raw: Any) -> str:
    return str(ffi.string(raw).decode(errors="replace"))


def _interface_name(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"interface {ifindex}"
