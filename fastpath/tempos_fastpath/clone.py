"""The tc program that makes the copies of an event where a broadcast in XDP cannot be had.

It shares the maps of the XDP programs and serves what they hand on, so it sits on the interfaces that carry
one; from when the first topic needs it until the fast path ends. It is held by links like theirs (tcx, so
that nothing stays behind without a pin; older kernels have none, and then topics that need it take the
slow path). What an earlier broker left is updated in place, whatever its version.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from tempos import Unavailable
from tempos_bpf.held import Held
from tempos_bpf.links import InterfaceLink, attach_tc
from tempos_bpf.maps import Map
from tempos_bpf.objects import BpfObject, Program
from tempos_fastpath.survival.pins import LATENCY, Pins

OBJECT = Path(__file__).with_name("clone.bpf.o")
PROGRAM = "tempos_clone"
#: The maps it shares with the XDP programs.
MAPS = (
    "routes",
    "small_routes",
    "journals",
    "rows",
    "ports",
    "topics",
    "tickets",
    "counters",
    "copies",
    "pulse",
    "sources",
    "asked",
)
#: The same program with a view of latency, which is what it then also shares.
TIMED = "tempos_clone_timed"


class Clones:
    """The program, loaded for each gate, and where it is attached. Blocking; may be called from any thread.

    ``share``: maps of the XDP programs by name; with ``latency`` among them it is measured. ``pins``: where
    its links are pinned, or None.
    """

    def __init__(self, share: Mapping[str, Map], pins: Pins | None) -> None:
        self._share = share
        self._pins = pins
        self._held = Held()
        self._links: dict[int, InterfaceLink] = {}
        #: Of each link the settings that its program goes by; none yet of one that was adopted.
        self._settings: dict[int, bytes] = {}
        self._changing = threading.Lock()

    def adopt(self, links: Collection[InterfaceLink]) -> None:
        """Take over links that an earlier broker left; they run its program until :meth:`serve`."""
        with self._changing:
            self._links |= {link.ifindex: link for link in links}

    def serve(self, interfaces: Mapping[int, bytes]) -> None:
        """Be on these interfaces and no others; those by index, of the calling thread's namespace.

        Each goes by the settings of the XDP program there, as if that were in native mode. Raises
        :class:`~tempos.Unavailable` if one does not take it; the others are served then.
        """
        refusals: list[Unavailable] = []
        with self._changing:
            for ifindex, link in tuple(self._links.items()):
                if ifindex not in interfaces or not link.attached:
                    self._take_off(ifindex)
            for ifindex, settings in interfaces.items():
                if self._settings.get(ifindex) == settings:
                    continue
                try:
                    self._put(ifindex, settings)
                except Unavailable as refusal:
                    # Rather none than one that takes what is another's.
                    self._take_off(ifindex)
                    refusals.append(refusal)
            self._held.keep(self._settings.values())
        if refusals:
            raise refusals[0]

    @contextlib.contextmanager
    def replaced(self, ifindex: int, settings: bytes) -> Iterator[None]:
        """Be off an interface while its XDP program is replaced by one of these settings, then beside that.

        For the two must not differ in whose frames they take. The slow path makes the copies meanwhile, and
        where the program is refused, which :meth:`serve` says.
        """
        with self._changing:
            if self._settings.get(ifindex) == settings:
                # They do not differ in that.
                yield
                return
            with contextlib.suppress(Unavailable):
                # It takes long, so before.
                self._program(settings)
            self._take_off(ifindex)
            yield
            with contextlib.suppress(Unavailable):
                self._put(ifindex, settings)

    def pin(self, pins: Pins) -> None:
        """Let all that is attached from now on, or was before, outlive this process."""
        with self._changing:
            self._pins = pins
            for link in self._links.values():
                pins.put_tc_link(link)

    def close(self, *, keep: bool = False) -> None:
        """Detach everywhere, or ``keep`` what is pinned in force; safe to call twice."""
        with self._changing:
            for link in self._links.values():
                if keep and link.pinned:
                    link.close()
                else:
                    link.detach()
            self._links.clear()
            self._settings.clear()
            self._held.close()

    def _program(self, settings: bytes) -> Program:
        loaded = self._held.get(settings)
        if loaded is None:
            loaded = self._load(settings)
            self._held.put(settings, loaded)
        return loaded.program(TIMED if LATENCY in self._share else PROGRAM)

    def _put(self, ifindex: int, settings: bytes) -> None:
        program = self._program(settings)
        if ifindex in self._links:
            self._links[ifindex].update(program)
        else:
            self._links[ifindex] = link = attach_tc(program, ifindex)
            if self._pins is not None:
                # Where that fails it would not outlive us where the XDP program does: that one is told to say
                # so.
                self._pins.put_tc_link(link)
        self._settings[ifindex] = settings

    def _take_off(self, ifindex: int) -> None:
        self._settings.pop(ifindex, None)
        if (link := self._links.pop(ifindex, None)) is not None:
            link.detach()

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
