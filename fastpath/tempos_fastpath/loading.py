"""The XDP programs, loaded as they are needed: for each mode, each way to know of VLAN tags, and each gate.

What a program does with a partial checksum, and how it learns of a tag, is fixed when it is loaded; the maps
are shared by all, and are those of an earlier broker where it left some. Where latency is to be measured,
another program of the object is attached, so that the usual one has nothing of it. Which addresses and MACs
are ours is fixed as well: where they change, programs are loaded anew, in some tenths of a second, and put in
the place of the old ones, for several interfaces on several processors at a time; the last few of those stay,
for when it changes back. Blocking.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

from tempos import Unavailable
from tempos._abi import Tags
from tempos._rows import Rows
from tempos.errors import one_line
from tempos_bpf.errors import BpfError
from tempos_bpf.held import Held
from tempos_bpf.links import XdpMode
from tempos_bpf.maps import Map
from tempos_bpf.objects import BpfObject, Program, Verdict
from tempos_fastpath.layout import encode_settings
from tempos_fastpath.network.gates import Gate
from tempos_fastpath.network.kernel import Kernel
from tempos_fastpath.pulse import stamp
from tempos_fastpath.rows import sizes
from tempos_fastpath.survival.pins import LATENCY, MAPS

OBJECT = Path(__file__).with_name("fastpath.bpf.o")
PROGRAM = "tempos_fastpath"
#: The same program with a view of latency.
TIMED = "tempos_timed"
DELIVER = "tempos_deliver"
#: The map that only those programs use that sit at a port of a bridge.
_LEARNT = "learnt"
_TRY_BROADCAST = "tempos_try_broadcast"
#: What programs differ by.
Variant: TypeAlias = "tuple[XdpMode, Tags, Gate]"


class Loader:
    """Loads each program once.

    ``gone_after_ns``: how long user space may be silent before programs pass everything; 0: for ever.
    ``latency``: measure it, if the kernel lets us. ``rows``: where topics stand in the maps.
    """

    def __init__(
        self,
        listen: Sequence[str],
        port: int,
        *,
        gone_after_ns: int,
        latency: bool,
        kernel: Kernel,
        rows: Rows,
    ) -> None:
        self._listen = tuple(listen)
        self._port = port
        self._gone_after_ns = gone_after_ns
        self._timed = latency
        self._kernel = kernel
        self.rows = rows
        self._kept: Mapping[str, Map] = {}
        #: Whose maps all share, and which stays therefore; its programs may be of former addresses.
        self._base: BpfObject | None = None
        self._base_settings = b""
        self._held = Held()
        self._skb_at = 0
        #: Whether the kernel can broadcast into a devmap.
        self.broadcasts = False
        #: What a status should add.
        self.note = ""

    def adopt(self, maps: Mapping[str, Map]) -> None:
        """Go on with these maps; before anything is loaded."""
        self._kept = maps

    @property
    def measures(self) -> bool:
        """Whether there is a map ``latency``."""
        return self._timed

    @property
    def reads_veth(self) -> bool:
        """Whether this kernel's veth leads a native program to the socket buffer (Linux 6.3)."""
        if not self._skb_at:
            self._skb_at = self._kernel.veth_skb_at() or 0
        return self._skb_at > 0

    @property
    def deliver(self) -> Program:
        """What the copies pass on their way out."""
        return self._first.program(DELIVER)

    def map(self, name: str) -> Map:
        """A map that all programs share; once one is loaded."""
        return self._first.map(name)

    def program(self, mode: XdpMode, tags: Tags, gate: Gate) -> Program:
        """The program of a mode that learns of VLAN tags in that way, for interfaces with that gate.

        Raises Unavailable if the kernel refuses it.
        """
        settings = self.settings(mode, tags, gate)
        loaded = self._held.get(settings)
        if loaded is None:
            loaded = self._open(settings, gate)
            self._held.put(settings, loaded)
            if self._base is None:
                self._base, self._base_settings = loaded, settings
            self.broadcasts = loaded.program(_TRY_BROADCAST).run(bytes(64)).verdict == Verdict.REDIRECT
            if not self._kept:
                self.stamp()
        return loaded.program(TIMED if self._timed else PROGRAM)

    def prepare(self, variants: Collection[Variant]) -> None:
        """Load those of these programs that are not there yet, side by side: each costs a processor's time.

        Once one is loaded. What the kernel refuses is refused again, in words, when it is asked for.
        """
        lacking = {self.settings(*each): each[2] for each in variants}
        lacking = {key: gate for key, gate in lacking.items() if self._held.get(key) is None}
        if len(lacking) < 2:
            return
        with ThreadPoolExecutor(min(len(lacking), os.cpu_count() or 1)) as threads:
            loading = {key: threads.submit(self._open, key, gate) for key, gate in lacking.items()}
        for key, loaded in loading.items():
            with contextlib.suppress(Unavailable):
                self._held.put(key, loaded.result())

    @property
    def listen(self) -> tuple[str, ...]:
        """The addresses that programs take for ours."""
        return self._listen

    def relisten(self, listen: Sequence[str]) -> None:
        """Other addresses are ours: programs asked for from now on know these."""
        self._listen = tuple(listen)

    def keep(self, used: Collection[Variant]) -> None:
        """Let go of the programs that are none of these, but for the last ones."""
        self._held.keep({self._base_settings, *(self.settings(*each) for each in used)})

    def stamp(self) -> None:
        """Say that user space is there: the first packet of a program must not find it gone.

        For maps of an earlier broker that is to be done once its programs are to be ours.
        """
        with contextlib.closing(self.map("pulse").mmap()) as pulse:
            stamp(pulse)

    def settings(self, mode: XdpMode, tags: Tags, gate: Gate) -> bytes:
        """What programs are told when they are loaded."""
        return encode_settings(self._port, self._listen, gate, generic=mode is XdpMode.GENERIC,
                               gone_after_ns=self._gone_after_ns, tags=tags, skb_at=self._skb_at)  # fmt: skip

    def close(self) -> None:
        """Release what nothing else holds; safe to call twice."""
        self._held.close()

    @property
    def _first(self) -> BpfObject:
        assert self._base is not None, "a program was loaded before"
        return self._base

    def _open(self, settings: bytes, gate: Gate) -> BpfObject:
        rodata = {"settings": settings}
        first = self._base
        room = sizes(self.rows) if gate.learns else {**sizes(self.rows), _LEARNT: 1}
        share = self._kept if first is None else {name: first.map(name) for name in MAPS}
        if self._timed:
            if first is not None:
                share = {**share, LATENCY: first.map(LATENCY)}
            try:
                return BpfObject(
                    OBJECT, rodata, share, sizes={**room, **sizes(self.rows, LATENCY)}, also=[TIMED]
                )
            except BpfError as error:
                # All programs are of one kind, and so is what the first of them has settled.
                if first is not None:
                    raise
                refusal = one_line(error)
                self._timed = False
        else:
            refusal = ""
        share = {name: each for name, each in share.items() if name != LATENCY}
        plain = BpfObject(OBJECT, rodata, share, sizes=room, without=[LATENCY])
        if refusal:
            self.note += f"; latency is not measured: {refusal}"
        return plain
