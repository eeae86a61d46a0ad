"""BPF maps: reading and writing them by key, and mapping an array into this process's memory."""

from __future__ import annotations

import enum
import errno
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from tempos import LocalError
from tempos_bpf.errors import BpfError
from tempos_bpf.library import check, ffi, lib, text


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
    SK_STORAGE = 24
    RINGBUF = 27


#: Bytes that are read at once of rows that are summed up.
_SCRATCH = 1 << 20
_PER_CPU = (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH)


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
        #: Bytes.
        self.size = size
        #: Of the map, while that is open: another process that has it can map the same memory.
        self.descriptor = fd

    def fetch_add(self, offset: int, count: int) -> int:
        """Add ``count``; returns the value before."""
        return int(lib.tempos_atomic_fetch_add(self._at(offset), count))

    def load(self, offset: int) -> int:
        return int(lib.tempos_atomic_load(self._at(offset)))

    def store(self, offset: int, value: int) -> None:
        lib.tempos_atomic_store(self._at(offset), value)

    def zero(self, offset: int, size: int) -> None:
        """Set so many bytes to 0; not atomic: nothing else may use them now."""
        self._at(offset)
        if not 0 <= size <= self.size - offset:
            raise LocalError(f"{size} bytes from {offset} on are not inside {self.size}")
        self._memory[offset : offset + size] = bytes(size)

    @property
    def memory(self) -> mmap.mmap:
        """The mapping itself, a page's rest included; what looks at it lets go before :meth:`close`."""
        return self._memory

    def address(self, offset: int) -> Any:
        """For this package: the C pointer, which is good until :meth:`close`."""
        return self._at(offset)

    def close(self) -> None:
        """Unmap; safe to call twice."""
        if self._view is not None:
            ffi.release(self._view)
            self._view = None
            self._memory.close()

    def _at(self, offset: int) -> Any:
        if self._view is None:
            raise LocalError("the shared array is closed")
        if offset % 8 or not 0 <= offset <= self.size - 8:
            raise LocalError(f"offset {offset} is not one of 8 aligned bytes inside {self.size}")
        return self._view + offset


class Map:
    """A BPF map. A key may be bytes or, for integer keys, an int; values are bytes."""

    def __init__(self, fd: int, *, owned: bool, made: tuple[str, int, int, int, int] | None = None) -> None:
        """``made``: name, type, sizes of keys and values, and entries; None: the kernel is asked."""
        self._fd = fd
        self._owned = owned
        if made is None:
            info = self._info()
            sizes = int(info.key_size), int(info.value_size), int(info.max_entries)
            made = text(info.name), int(info.type), *sizes
        self.name, self.type, self.key_size, self.value_size, self.max_entries = made
        self._stride = (self.value_size + 7) // 8 * 8
        #: What :meth:`sum_rows` reads into: for so many rows, their values, their keys.
        self._scratch: tuple[int, Any, Any] | None = None

    def _info(self) -> Any:
        info = ffi.new("struct tempos_map_info *")
        check(lib.tempos_map_info(self._fd, info), "cannot read what a map is")
        return info

    @property
    def fd(self) -> int:
        return self._fd

    @property
    def id(self) -> int:
        """By which the kernel knows it."""
        return int(self._info().id)

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

    def sum_rows(self, first: int = 0, rows: int | None = None) -> memoryview:
        """Of a per-CPU array of u64s: rows summed over the CPUs, one after another, as u64s.

        ``rows`` from ``first`` on; None: all there are. A system call reads a megabyte of them.
        """
        if self.type != MapType.PERCPU_ARRAY or self.value_size % 8:
            raise LocalError(f"map {self.name} is not a per-CPU array of u64s")
        rows = self.max_entries - first if rows is None else rows
        if not 0 <= first <= first + rows <= self.max_entries:
            raise LocalError(f"map {self.name} has no rows {first} to {first + rows - 1}")
        words, cpus = self.value_size // 8, possible_cpus()
        if self._scratch is None:
            room = min(max(1, _SCRATCH // (self.value_size * cpus)), self.max_entries)
            self._scratch = room, ffi.new("__u64[]", room * cpus * words), ffi.new("__u32[]", room)
        sums = ffi.new("__u64[]", rows * words)
        code = lib.tempos_map_sum_rows(self._fd, first, rows, words, cpus, *self._scratch, sums)
        check(code, f"cannot read map {self.name}")
        return memoryview(bytes(ffi.buffer(sums))).cast("Q")

    def update(self, key: int | bytes, value: bytes | Map, flags: int = 0) -> None:
        """Set ``key``; of a map of maps the value is the inner map.

        For a map of maps this returns when no program uses the old inner map any more (an RCU grace
        period, some 10 ms).
        """
        at, what = ffi.from_buffer(self._key(key)), ffi.from_buffer(self._value(value))
        result = lib.tempos_map_update(self._fd, at, what, flags)
        check(result, f"cannot set {key!r} in map {self.name}")

    def clear_per_cpu(self, key: int | bytes) -> None:
        """Set the value of ``key`` to zero bytes on every possible CPU."""
        self.update(key, bytes(self._stride * possible_cpus()))

    def update_many(self, entries: Sequence[tuple[int | bytes, bytes | Map]]) -> None:
        """Set many keys by one system call, which from Linux 6.8 on waits but once in a map of maps.

        Where that fails, some of the first may be set. Not for maps of one value per CPU.
        """
        keys = b"".join(self._key(key) for key, _ in entries)
        values = b"".join(self._value(value) for _, value in entries)
        count = ffi.new("__u32 *", len(entries))
        result = lib.tempos_map_update_batch(self._fd, ffi.from_buffer(keys), ffi.from_buffer(values), count)
        check(result, f"cannot set {len(entries)} keys in map {self.name}")

    def put_arrays(self, name: str, entries: Sequence[tuple[int, bytes]]) -> None:
        """Of a map of maps: at each key a new array of that ``name``, whose one element this is, by one call.

        All are of the same length. Where that fails, some of the first may be set.
        """
        keys = b"".join(self._key(key) for key, _ in entries)
        values, count = [value for _, value in entries], len(entries)
        if len({*map(len, values)}) > 1:
            raise LocalError(f"map {self.name}: the values are not of the same length")
        data, scratch = b"".join(values), ffi.new("int[]", count)
        size, keys, data = len(values[0]), ffi.from_buffer(keys), ffi.from_buffer(data)
        result = lib.tempos_map_put_arrays(self._fd, name.encode()[:15], size, count, keys, data, scratch)
        check(result, f"cannot set {count} keys in map {self.name}")

    def first_values(self, keys: Sequence[int], size: int) -> list[bytes | None]:
        """Of a map of maps: the first element, of ``size`` bytes, of the array at each key; None: no array.

        By one call. Needs CAP_SYS_ADMIN.
        """
        count = len(keys)
        values, found = ffi.new("char[]", count * size), ffi.new("char[]", count)
        result = lib.tempos_map_first_values(
            self._fd, size, count, ffi.new("__u32[]", list(keys)), values, found
        )
        check(result, f"cannot read {count} keys of map {self.name}")
        data = ffi.buffer(values)
        there = enumerate(ffi.buffer(found)[:])
        return [data[at * size : (at + 1) * size] if is_there else None for at, is_there in there]

    def delete(self, key: int | bytes) -> bool:
        """Remove ``key``; False if it was not there."""
        result = lib.tempos_map_delete(self._fd, ffi.from_buffer(self._key(key)))
        if result == -errno.ENOENT:
            return False
        check(result, f"cannot remove {key!r} from map {self.name}")
        return True

    def keys(self) -> Iterator[bytes]:
        """Every key; of a hash that changes meanwhile some may come twice or not at all."""
        key, following = ffi.NULL, ffi.new("char[]", self.key_size)
        # A hash that loses the key at hand begins again from its first: bounded all the same.
        for _ in range(2 * self.max_entries):
            result = lib.tempos_map_next_key(self._fd, key, following)
            if result == -errno.ENOENT:
                return
            check(result, f"cannot read the keys of map {self.name}")
            key, following = following, ffi.new("char[]", self.key_size)
            yield bytes(ffi.buffer(key, self.key_size))

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key with its value, many at a system call; per-CPU values one after another, in full 8 bytes.

        Of a hash that changes meanwhile some may come twice or not at all.
        """
        size = self._stride * possible_cpus() if self.type in _PER_CPU else self.value_size
        room = min(max(_SCRATCH // (self.key_size + size), 64), self.max_entries)
        before, after, count = ffi.NULL, ffi.new("char[]", max(self.key_size, 4)), ffi.new("__u32 *")
        while True:
            keys, values = ffi.new("char[]", room * self.key_size), ffi.new("char[]", room * size)
            count[0] = room
            code = lib.tempos_map_lookup_batch(self._fd, before, after, keys, values, count)
            if code == -errno.ENOSPC:
                room *= 2  # not even one bucket had room
                continue
            if code != -errno.ENOENT:
                check(code, f"cannot read map {self.name}")
            raw_keys, raw_values = ffi.buffer(keys), ffi.buffer(values)
            for at in range(count[0]):
                yield (
                    raw_keys[at * self.key_size : (at + 1) * self.key_size],
                    raw_values[at * size : (at + 1) * size],
                )
            if code == -errno.ENOENT:
                return
            before = after

    def inner(self, key: int | bytes) -> Map | None:
        """Of a map of maps: the inner map of ``key``, to be closed, or None. Needs CAP_SYS_ADMIN."""
        number = self._lookup(key, 4)
        if number is None:
            return None
        return map_by_id(int.from_bytes(number, sys.byteorder))

    def pin(self, path: Path) -> None:
        """Keep the map beyond this process, under a path of a BPF file system where nothing is yet."""
        check(lib.tempos_pin(self._fd, bytes(path)), f"cannot pin the map {self.name} at {path}")

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
        result = lib.tempos_map_lookup(self._fd, ffi.from_buffer(self._key(key)), value)
        if result == -errno.ENOENT:
            return None
        check(result, f"cannot read {key!r} of map {self.name}")
        return bytes(ffi.buffer(value, size))

    def _value(self, value: bytes | Map) -> bytes:
        data = value.fd.to_bytes(4, sys.byteorder) if isinstance(value, Map) else value
        expected = self._stride * possible_cpus() if self.type in _PER_CPU else self.value_size
        if len(data) != expected:
            raise LocalError(f"map {self.name}: a value of {len(data)} bytes, {expected} are needed")
        return data

    def _key(self, key: int | bytes) -> bytes:
        data = key.to_bytes(self.key_size, sys.byteorder) if isinstance(key, int) else key
        if len(data) != self.key_size:
            raise LocalError(f"map {self.name}: a key of {len(data)} bytes, {self.key_size} are needed")
        return data


def create_map(
    name: str, kind: MapType, *, key_size: int, value_size: int, max_entries: int, flags: int = 0
) -> Map:
    """A map of its own, for instance the inner one of a map of maps; the caller closes it."""
    fd = lib.tempos_map_create(name.encode()[:15], kind, key_size, value_size, max_entries, flags)
    check(fd, f"cannot create the map {name}")
    return Map(fd, owned=True, made=(name, kind, key_size, value_size, max_entries))


def pinned_map(path: Path) -> Map:
    """The map that is pinned at ``path``; the caller closes it."""
    return Map(check(lib.tempos_pinned(bytes(path)), f"cannot open the pin {path}"), owned=True)


def map_by_id(number: int) -> Map:
    """The map of this id, whoever holds it; the caller closes it. Needs CAP_SYS_ADMIN."""
    return Map(check(lib.tempos_map_by_id(number), f"cannot open the map with id {number}"), owned=True)


@lru_cache(1)
def possible_cpus() -> int:
    """How many values a key of a per-CPU map has."""
    return check(lib.tempos_possible_cpus(), "cannot tell the number of CPUs")
