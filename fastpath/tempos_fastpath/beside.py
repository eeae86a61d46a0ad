"""The tracing programs that tell the XDP programs what lies beside a frame (fastpath/bpf/beside.bpf.c).

They are no help but a condition: without them no program is attached that would need to be told. So they
run before it does, are pinned like it, and a next broker's are there before an earlier one's go. What they
say lies in maps of the XDP programs; here is only at which interfaces they listen, and what was heard there.
Blocking.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from tempos import Unavailable, _abi
from tempos_bpf.links import Link, attach_tracing
from tempos_bpf.maps import Map, pinned_map
from tempos_bpf.objects import BpfObject
from tempos_fastpath.survival.ownership import Identity
from tempos_fastpath.survival.pins import Pins

OBJECT = Path(__file__).with_name("beside.bpf.o")
#: Of the XDP programs: what is left there for them.
MAPS = ("notes", "heard")
_NOTE = "tempos_note"
_HEAR = ("tempos_hear", "tempos_hear_veth")
PROGRAMS = (_NOTE, *_HEAR)
_WATCHED = "watched"
_PIN = "beside_"
_WORD = 4


class Beside:
    """The programs, loaded; attached as they are needed. Raises Unavailable where the kernel takes none.

    ``maps``: those of the XDP programs, by name. ``adopt``: where an earlier broker pinned what it had
    heard, or None.
    """

    def __init__(self, identity: Identity, maps: Mapping[str, Map], adopt: Pins | None) -> None:
        self._heard = maps["heard"]
        self._links: dict[str, Link] = {}
        self._pinned: set[str] = set()
        with contextlib.ExitStack() as stack:
            share = {name: maps[name] for name in MAPS}
            if adopt is not None:
                with contextlib.suppress(Unavailable):
                    share[_WATCHED] = stack.enter_context(pinned_map(adopt.path(_WATCHED)))
            namespace = identity.namespace.to_bytes(8, sys.byteorder)
            self._object = BpfObject(OBJECT, {"our_namespace": namespace}, share, also=PROGRAMS)
        self._watched = self._object.map(_WATCHED)

    def note(self) -> None:
        """See to it that what comes in by generic mode is noted."""
        self._attach(_NOTE)

    def listen(self, interfaces: Collection[int]) -> None:
        """See to it that tagged frames are heard of at these interfaces, too."""
        for ifindex in interfaces:
            if self._watched.lookup(ifindex) is None:
                self._watched.update(ifindex, bytes(self._watched.value_size))
        for name in _HEAR if interfaces else ():
            self._attach(name)

    def restrict(self, interfaces: Collection[int]) -> None:
        """Listen at these interfaces and no others any more."""
        for key in tuple(self._watched.keys()):
            if int.from_bytes(key, sys.byteorder) not in interfaces:
                self._watched.delete(key)

    @property
    def news(self) -> int | None:
        """A number for what was heard so far, while programs pass everything on its account; else None."""
        frames, settled = (self._word(each) for each in (_abi.HEARD_FRAMES, _abi.HEARD_SETTLED))
        return frames if frames != settled else None

    def heard(self) -> frozenset[int]:
        """The interfaces, of those listened to, that had tagged frames."""
        return frozenset(
            int.from_bytes(key, sys.byteorder)
            for key in self._watched.keys()  # noqa: SIM118 - a BPF map, no dict
            if any(self._watched.lookup(key) or b"")
        )

    def settle(self, news: int) -> None:
        """No interface is left whose program must pass everything on account of these :attr:`news`."""
        self._heard.update(_abi.HEARD_SETTLED, news.to_bytes(_WORD, sys.byteorder))

    def pin(self, pins: Pins) -> None:
        """Let all that is attached by now outlive this process. Raises NotPinned."""
        for name, link in self._links.items():
            if name in self._pinned:
                continue
            if name in _HEAR:
                pins.put_map(_WATCHED, self._watched)
            pins.put_tracing(link, _PIN + name)
            self._pinned.add(name)
        drop_others(pins, self._links)

    def close(self) -> None:
        """Let go of programs and maps; those that are pinned go on. Safe to call twice."""
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._object.close()

    def _word(self, key: int) -> int:
        return int.from_bytes(self._heard.lookup(key) or b"", sys.byteorder)

    def _attach(self, name: str) -> None:
        if name not in self._links:
            self._links[name] = attach_tracing(self._object.program(name))


def drop_others(pins: Pins, needed: Collection[str] = ()) -> None:
    """Remove the pins of such programs, an earlier broker's, that are not ``needed`` any more."""
    for name in set(PROGRAMS).difference(needed):
        pins.drop(_PIN + name)
    if not set(_HEAR).intersection(needed):
        pins.drop(_WATCHED)
