"""A fast path from nothing: loaded and attached, ready to take over what an earlier broker left.

What fails leaves nothing of its own behind, and what was there as it was. Whatever waits for the kernel does
so in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from tempos import LocalError, Quality
from tempos._rows import Rows
from tempos.errors import one_line
from tempos_fastpath.attach import Programs
from tempos_fastpath.errors import NotPinned
from tempos_fastpath.fanouts import Fanouts
from tempos_fastpath.kernel_routes import KernelRoutes
from tempos_fastpath.loading import Loader
from tempos_fastpath.network.entrances import Entrances
from tempos_fastpath.network.kernel import Kernel
from tempos_fastpath.network.netdev import feature_group
from tempos_fastpath.network.survey import Survey
from tempos_fastpath.network.targets import first_targets, served_now
from tempos_fastpath.offload import Offload
from tempos_fastpath.resources import Resources
from tempos_fastpath.survival.orphans import tidy
from tempos_fastpath.survival.ownership import Identity, Ownership, current_namespace
from tempos_fastpath.survival.pins import Held, Pins, need_bpffs

MODES = ("auto", "native", "generic")
WHEN_GONE = ("continue", "pass")
#: Threads that wait for the kernel, at most: the RCU grace periods of so many topics pass at the same time.
#: They are begun as they are needed, so only a start with many topics, or a change of many, has all of them.
_THREADS = 128


async def start(**options: Any) -> Offload:
    """:func:`prepare`, and take over at once what an earlier broker left."""
    offload = await prepare(**options)
    try:
        await offload.take_over()
    except BaseException:
        await offload.close(keep=offload.inherited)
        raise
    return offload


async def prepare(
    *,
    listen: Sequence[str],
    port: int,
    mode: str,
    interfaces: Sequence[str],
    name: str = "default",
    pin: bool = True,
    when_gone: str = "continue",
    gone_after: float = 3.0,
    tos: Mapping[Quality, int] | None = None,
    latency: bool = False,
    kernel: Kernel | None = None,
    held: Held | None = None,
    reverse_path: bool = True,
    rows: Rows | None = None,
) -> Offload:
    """Load and attach, but leave what an earlier broker of the same name left as it is.

    :meth:`Offload.take_over` is next, once nothing else can fail; without it, nothing has happened.

    ``listen``: IPv4 addresses; ``0.0.0.0`` stands for every one of this machine, at most
    ``tempos._abi.MAX_LISTEN``. ``mode``: auto, native or generic. ``interfaces``: names, or empty for those
    that carry a listen address. ``name``: whose fast path this is, one living process each in a network
    namespace. ``pin``: forwarding outlives this process, if there is a BPF file system. ``when_gone``: what
    the program does once this process gave no sign of life for ``gone_after`` seconds, ``continue`` or
    ``pass`` everything up. ``tos``: that byte of the IPv4 header of what leaves, of each class: its DSCP,
    shifted left by 2; 0 where nothing is said. ``latency``: measure in the kernel how long events take; where
    that cannot be had, the status says so. ``held``: by which the pins are reached where this user may not go
    there. ``reverse_path``: take no source that an interface with `rp_filter` would drop. ``rows``: where
    topics stand in the tables; None: there are narrow ones only. ``kernel``: what is asked of it that cannot
    be tried; None: the one that runs.

    Raises :class:`tempos.Unavailable` with a reason per interface if it could attach to none, and
    :class:`~tempos_fastpath.errors.Owned` if another broker holds the name or an interface. Leaves
    nothing of its own behind then.
    """
    if mode not in MODES:
        raise LocalError(f"fast path mode {mode!r} is not one of {', '.join(MODES)}")
    if when_gone not in WHEN_GONE:
        raise LocalError(f"{when_gone!r} is not one of {', '.join(WHEN_GONE)}")
    threads = ThreadPoolExecutor(_THREADS, "tempos-fastpath")
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as undo:
        undo.callback(threads.shutdown, wait=False)
        ownership = await loop.run_in_executor(threads, _own, name)
        undo.callback(ownership.close)
        kernel = kernel or Kernel()
        survey = Survey(kernel)
        facts = await loop.run_in_executor(threads, survey.read, (), False, {})
        addresses, _ = served_now(listen, facts)
        targets = first_targets(interfaces, listen, addresses, facts)
        unpinned = ""
        pins = Pins(ownership.identity, held)
        if pin and held is None:
            try:
                await loop.run_in_executor(threads, need_bpffs)
            except NotPinned as error:
                unpinned = one_line(error)
        gone_after_ns = round(gone_after * 1e9) if when_gone == "pass" else 0
        rows = Rows() if rows is None else rows
        loader = Loader(
            addresses, port, gone_after_ns=gone_after_ns, latency=latency, kernel=kernel, rows=rows
        )
        programs = Programs(
            loader, identity=ownership.identity, pins=pins, pin=pin, unpinned=unpinned,
            reverse_path=reverse_path,
        )  # fmt: skip
        undo.callback(programs.close)
        # Before that: a thread that is still attaching must come to its end.
        undo.callback(threads.shutdown, wait=True)
        await loop.run_in_executor(
            threads, partial(programs.attach, targets, mode, facts, named=bool(interfaces))
        )
        fanouts = Fanouts(programs.map("fanouts"), programs.map("egress"), programs.deliver)
        undo.callback(fanouts.close)
        routes = KernelRoutes(
            programs.map("routes"), programs.map("small_routes"), programs.map("egress"), fanouts, rows
        )
        group = await loop.run_in_executor(threads, feature_group)
        entrances = Entrances(tuple(listen), named=bool(interfaces))
        names = tuple(interfaces)
        resources = Resources(survey, programs, routes, fanouts, ownership, pins, entrances, names, threads)
        lacks = await loop.run_in_executor(threads, kernel.lacks)
        offload = Offload(resources, facts, lacks, group, gone_after, tos or {}, port, rows)
        undo.pop_all()
    return offload


def _own(name: str) -> Ownership:
    ownership = Ownership(Identity(name, current_namespace()))
    tidy()
    return ownership
