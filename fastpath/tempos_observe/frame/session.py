"""What rows are made from: the maps and iterators of a loaded tool, read as named tuples, and the time.

A tool's functions get the session; it reads, and keeps what was read last for those who want what is new.
"""

from __future__ import annotations

import datetime as dt
import mmap
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tempos_bpf.layouts import Layout
from tempos_bpf.maps import MapType, SharedArray, possible_cpus
from tempos_bpf.objects import BpfObject
from tempos_bpf.tracing import walk
from tempos_observe.wishes import Wishes

_PER_CPU = (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH)


@dataclass(frozen=True, slots=True)
class _Array:
    """Memory of an array that is filled from its begin. ``counted``: where in `filled` it says how far."""

    memory: mmap.mmap
    size: int
    entries: int
    counted: int
    count_size: int


class Session:
    """A tool while it runs. ``has``: the programs that are at work here.

    ``seconds``: since the last look at what is counted, or since the start. ``state``: what the tool's
    ``start`` gave.
    """

    def __init__(self, loaded: BpfObject, wishes: Wishes, has: frozenset[str]) -> None:
        self.wishes = wishes
        self.has = has
        self.state: Any = None
        self.started_ns = self.looked_ns = time.monotonic_ns()
        self.seconds = 0.0
        self._object = loaded
        self._wall_ns = time.time_ns() - time.monotonic_ns()
        self._clock: dict[int, str] = {}
        self._layouts: dict[str, tuple[Layout, Layout]] = {}
        self._structs: dict[str, Layout] = {}
        self._before: dict[str, dict[bytes, Any]] = {}
        self._memory: dict[str, SharedArray] = {}
        self._arrays: dict[str, _Array] = {}
        self._seen: dict[str, bytes] = {}

    def close(self) -> None:
        """Let go of what is mapped; safe to call twice."""
        self._arrays.clear()
        while self._memory:
            self._memory.popitem()[1].close()

    @property
    def object(self) -> BpfObject:
        """What is loaded, for what is not foreseen here."""
        return self._object

    def rows(self, name: str) -> Iterator[tuple[Any, Any]]:
        """Keys and values of a map as named tuples; of a per-CPU map all integers summed over the CPUs."""
        for key, _, value in self._read(name):
            yield key, value

    def filled(self, name: str) -> Iterator[Any]:
        """Values of an array that programs fill from its begin, as many as the map `filled` says of it.

        Both are in this process's memory (``BPF_F_MMAPABLE``): no system call, and nothing that is empty.
        """
        return self.layouts(name)[1].read_all(self._filled(name))

    def changed(self, name: str) -> Sequence[tuple[int, Any]]:
        """Of such an array the values that are not as they were at the last call, with their places.

        What did not change is compared and not read: after a second of sleep nothing of it is near the CPU.
        """
        raw, before = self._filled(name), self._seen.get(name, b"")
        if raw == before:
            return ()
        self._seen[name] = raw
        values = self.layouts(name)[1]
        size = values.size
        places = [at for at in range(0, len(raw), size) if raw[at : at + size] != before[at : at + size]]
        news = values.read_all(b"".join([raw[at : at + size] for at in places]))
        return [(at // size, value) for at, value in zip(places, news, strict=True)]

    def seen(self, name: str) -> bytes:
        """Such an array as it was at the last call of :meth:`changed`, as far as it was filled."""
        return self._seen.get(name, b"")

    def shared(self, name: str) -> SharedArray:
        """Such an array, or `filled` itself, in this process's memory."""
        return self._memory[name]

    def offset(self, name: str, member: str) -> int:
        """Where in a value of a map a member lies."""
        return next(each.offset for each in self.layouts(name)[1].members if each.name == member)

    def _filled(self, name: str) -> bytes:
        if name not in self._arrays:
            self._arrays[name] = self._array(name)
        array = self._arrays[name]
        filled = self._memory["filled"].memory
        count = int.from_bytes(filled[array.counted : array.counted + array.count_size], sys.byteorder)
        return array.memory[: min(count, array.entries) * array.size]

    def _array(self, name: str) -> _Array:
        for each in ("filled", name):
            if each not in self._memory:
                source = self._object.map(each)
                size = self.layouts(each)[1].size * source.max_entries
                self._memory[each] = SharedArray(source.fd, size)
        (count,) = (each for each in self.layouts("filled")[1].members if each.name == name)
        shared, size = self._memory[name], self.layouts(name)[1].size
        return _Array(shared.memory, size, shared.size // size, count.offset, count.size)

    def fresh(self, name: str) -> Iterator[tuple[Any, Any]]:
        """The same, each integer of the value less what it was at the last look; no row without news."""
        before, now = self._before.get(name, {}), {}
        for key, raw, value in self._read(name):
            now[raw] = value
            added = _less(value, before[raw]) if raw in before else value
            if any(map(_counted, added)):
                yield key, added
        self._before[name] = now

    def per_cpu(self, name: str) -> Iterator[tuple[Any, list[Any]]]:
        """Of a per-CPU map: keys, and the value of each CPU."""
        keys, values = self.layouts(name)
        stride = (values.size + 7) // 8 * 8
        for key, raw in self._object.map(name).items():
            yield (
                keys.read(key),
                [
                    values.read(raw[at : at + values.size])
                    for at in range(0, stride * possible_cpus(), stride)
                ],
            )

    def iterate(self, program: str, struct: str, over: str = "") -> Iterator[Any]:
        """What an iterator program writes in one walk: structs. ``over``: the name of a map it goes over."""
        raw = walk(self._object.program(program), self._object.map(over) if over else None)
        layout = self.layout(struct)
        return layout.read_all(raw[: len(raw) // layout.size * layout.size])

    def layout(self, struct: str) -> Layout:
        """Of a struct of the programs, by its name in C."""
        if struct not in self._structs:
            self._structs[struct] = self._object.layout(struct)
        return self._structs[struct]

    def layouts(self, name: str) -> tuple[Layout, Layout]:
        """Of a map's keys and values."""
        if name not in self._layouts:
            self._layouts[name] = self._object.layouts(name)
        return self._layouts[name]

    def wall(self, monotonic_ns: int) -> dt.datetime:
        """When it was by the clock on the wall."""
        return dt.datetime.fromtimestamp((monotonic_ns + self._wall_ns) / 1e9).astimezone()

    def clock(self, monotonic_ns: int) -> str:
        """The same to the second, as `15:04:05`: as a rule asked of the same second again and again."""
        second = (monotonic_ns + self._wall_ns) // 1_000_000_000
        if second not in self._clock:
            self._clock = {second: time.strftime("%H:%M:%S", time.localtime(second))}
        return self._clock[second]

    def wants(self, pid: int | None, comm: str | None) -> bool:
        """Whether a process is one that was asked for, where the programs could not tell whose it is."""
        wishes = self.wishes
        if wishes.comm and comm != wishes.comm:
            return False
        if wishes.broker or len(wishes.pids) > 1:
            return pid is not None and self._object.map("watched").lookup(pid) is not None
        return not wishes.pids or pid in wishes.pids

    def look(self) -> None:
        """Somebody looks at what is counted, now."""
        now = time.monotonic_ns()
        self.seconds = (now - self.looked_ns) / 1e9
        self.looked_ns = now

    def _read(self, name: str) -> Iterator[tuple[Any, bytes, Any]]:
        source = self._object.map(name)
        keys, values = self.layouts(name)
        if source.type not in _PER_CPU:
            found = [*source.items()]
            raw_keys = [key for key, _ in found]
            # Many at once: no step of Python for each of their members.
            yield from zip(
                keys.read_all(b"".join(raw_keys)),
                raw_keys,
                values.read_all(b"".join(raw for _, raw in found)),
                strict=True,
            )
            return
        stride = (values.size + 7) // 8 * 8
        for key, raw in source.items():
            whole = [
                values.read(raw[at : at + values.size]) for at in range(0, stride * possible_cpus(), stride)
            ]
            total = whole[0]
            for each in whole[1:]:
                total = _combined(total, each, lambda a, b: a + b)
            yield keys.read(key), key, total


def _counted(value: Any) -> bool:
    return any(value) if isinstance(value, tuple) else isinstance(value, int) and value != 0


def _less(value: Any, before: Any) -> Any:
    return _combined(value, before, lambda a, b: a - b)


def _combined(one: Any, other: Any, how: Callable[[int, int], int]) -> Any:
    """Integers, and those in arrays, combined; texts and bytes as they are in the first."""
    return one._make(
        how(a, b) if isinstance(a, int)
        else tuple(map(how, a, b)) if isinstance(a, tuple)
        else a or b
        for a, b in zip(one, other, strict=True)
    )  # fmt: skip
