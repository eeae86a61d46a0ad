"""Attaching programs that only look on: tracepoints, iterators, perf events, uprobes.

Each gives a link; nothing stays attached when it is closed, or when this process ends. Where a tracepoint
or an iterator is attached stands in the program's section; a perf event and a uprobe are told here.
"""

from __future__ import annotations

import os
from pathlib import Path

from tempos import LocalError, Unavailable
from tempos_bpf.library import check, lib
from tempos_bpf.links import Link
from tempos_bpf.maps import Map
from tempos_bpf.objects import Program
from tempos_bpf.symbols import symbol_offset

_UPROBES = Path("/sys/bus/event_source/devices/uprobe")
_CHUNK = 1 << 16


def attach(program: Program) -> Link:
    """Attach a program of a section `tp_btf/NAME` or `raw_tp/NAME`."""
    kind, _, name = program.section.partition("/")
    if kind == "tp_btf":
        code = lib.tempos_tracing_attach(program.fd)
    elif kind in ("raw_tp", "raw_tracepoint"):
        code = lib.tempos_raw_attach(program.fd, name.encode())
    else:
        raise LocalError(
            f"where {program.name} is attached does not stand in its section, {program.section!r}"
        )
    return Link(check(code, f"cannot attach {program.name} to {name}"))


def attach_perf(
    program: Program, kind: int, config: int, *, period: int = 0, frequency: int = 0
) -> list[Link]:
    """Attach to a perf event of every CPU that is on: each ``period``th, or ``frequency`` times a second."""
    if bool(period) == bool(frequency):
        raise LocalError("either a period or a frequency")
    links: list[Link] = []
    try:
        for cpu in sorted(online_cpus()):
            code = lib.tempos_perf_attach(program.fd, kind, config, period or frequency, bool(frequency), cpu)
            links.append(Link(check(code, f"cannot attach {program.name} to the perf event of CPU {cpu}")))
    except BaseException:
        for link in links:
            link.close()
        raise
    return links


def attach_uprobe(program: Program, file: Path, symbol: str, *, returns: bool = False) -> Link:
    """Attach to the begin of a function of a file, or to its ``returns``, in every process that runs it.

    Raises :class:`Unavailable` where the file has no such symbol, or the kernel no uprobes.
    """
    offset = symbol_offset(file, symbol)
    if offset is None:
        raise Unavailable(f"{file} has no symbol {symbol}")
    try:
        kind = int((_UPROBES / "type").read_text())
        bit = (_UPROBES / "format" / "retprobe").read_text().strip().removeprefix("config:")
        config = 1 << int(bit) if returns else 0
    except (OSError, ValueError) as error:
        raise Unavailable(f"this kernel has no uprobes ({error})") from error
    code = lib.tempos_uprobe_attach(program.fd, kind, config, bytes(file), offset)
    return Link(check(code, f"cannot attach {program.name} to {symbol} of {file}"))


def walk(program: Program, over: Map | None = None) -> bytes:
    """What an iterator program writes in one walk; ``over``: the map whose elements it goes over."""
    code = lib.tempos_iter_attach(program.fd, -1 if over is None else over.fd)
    with Link(check(code, f"cannot attach the iterator {program.name}")) as link:
        fd = check(lib.tempos_iter_walk(link.fd), f"cannot start the iterator {program.name}")
        try:
            return b"".join(iter(lambda: os.read(fd, _CHUNK), b""))
        finally:
            os.close(fd)


def online_cpus() -> frozenset[int]:
    """The CPUs that are on, whether this process may use them or not."""
    found: set[int] = set()
    for part in Path("/sys/devices/system/cpu/online").read_text().strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
