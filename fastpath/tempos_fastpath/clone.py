"""The tc program that makes the copies of an event where a broadcast in XDP cannot be had.

It shares the maps of the XDP programs and serves what they hand on, so it sits on the interfaces that carry
one; from when the first topic needs it until the fast path ends. It is held by links like theirs (tcx, so
that nothing stays behind without a pin; older kernels have none, and then topics that need it take the
slow path). What an earlier broker left is updated in place, whatever its version.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from pathlib import Path

from tempos import Unavailable
from tempos_bpf.links import InterfaceLink, attach_tc
from tempos_bpf.maps import Map
from tempos_bpf.objects import BpfObject
from tempos_fastpath.errors import NotPinned
from tempos_fastpath.survival.pins import LATENCY, Pins

OBJECT = Path(__file__).with_name("clone.bpf.o")
PROGRAM = "tempos_clone"
#: The maps it shares with the XDP programs.
MAPS = ("routes", "small_routes", "rows", "topics", "tickets", "counters", "copies", "pulse")
#: The same program with a view of latency, which is what it then also shares.
TIMED = "tempos_clone_timed"


class Clones:
    """The loaded program and where it is attached. Blocking; may be called from any thread.

    ``settings`` are those of the XDP programs, whatever their mode. ``share``: maps of theirs by name; with
    ``latency`` among them it is measured. ``pins``: where its links are
    pinned, or None. Raises :class:`~tempos.Unavailable` where the kernel does not take the program.
    """

    def __init__(self, settings: bytes, share: Mapping[str, Map], pins: Pins | None) -> None:
        self._share = share
        self._object = self._load(settings)
        self._program = self._object.program(TIMED if LATENCY in share else PROGRAM)
        self._pins = pins
        self._links: dict[int, InterfaceLink] = {}
        self._changing = threading.Lock()

    def _load(self, settings: bytes) -> BpfObject:
        share = self._share
        timed = LATENCY in share
        shared = {name: share[name] for name in (*MAPS, *([LATENCY] if timed else []))}
        return BpfObject(
            OBJECT,
            {"settings": settings},
            shared,
            also=[TIMED] if timed else [],
            without=[] if timed else [LATENCY],
        )

    def renew(self, settings: bytes) -> None:
        """Go by other settings; raises :class:`~tempos.Unavailable`, and those that hold go on."""
        with self._changing:
            loaded = self._load(settings)
            program = loaded.program(TIMED if LATENCY in self._share else PROGRAM)
            for link in self._links.values():
                link.update(program)
            self._object, self._program, before = loaded, program, self._object
            before.close()

    def adopt(self, links: Collection[InterfaceLink]) -> None:
        """Put the program into links that an earlier broker left."""
        with self._changing:
            for link in links:
                link.update(self._program)
                self._links[link.ifindex] = link

    def serve(self, interfaces: Collection[int]) -> None:
        """Be on these interfaces and no others; those by index, of the calling thread's namespace.

        Raises :class:`~tempos.Unavailable` if one does not take it; the others are served then.
        """
        refusals: list[Unavailable] = []
        with self._changing:
            for ifindex, link in tuple(self._links.items()):
                if ifindex not in interfaces or not link.attached:
                    self._links.pop(ifindex).detach()
            for ifindex in interfaces:
                if ifindex not in self._links:
                    try:
                        self._attach(ifindex)
                    except Unavailable as refusal:
                        refusals.append(refusal)
        if refusals:
            raise refusals[0]

    def close(self, *, keep: bool = False) -> None:
        """Detach everywhere, or ``keep`` what is pinned in force; safe to call twice."""
        with self._changing:
            for link in self._links.values():
                if keep and link.pinned:
                    link.close()
                else:
                    link.detach()
            self._links.clear()
        self._object.close()

    def _attach(self, ifindex: int) -> None:
        link = attach_tc(self._program, ifindex)
        self._links[ifindex] = link
        if self._pins is not None:
            try:
                self._pins.put_tc_link(link)
            except NotPinned:
                # It would not outlive us where the XDP program does: that one is told to say so.
                self._links.pop(ifindex).detach()
                raise
