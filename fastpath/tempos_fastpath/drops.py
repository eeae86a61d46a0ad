"""What the kernel lost after the program had handed it over, by interface and errno.

Two small tracing programs count (fastpath/bpf/drops.bpf.c). They are a help, no condition: where the
kernel does not take them, or the tracepoints are others, the fast path works without and says so. Their
count is pinned beside the routes, so it goes on from one broker to the next; so do they, that losses
between two brokers are counted too.
"""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from tempos import Unavailable
from tempos_bpf.links import Link, attach_tracing
from tempos_bpf.maps import Map, pinned_map
from tempos_bpf.objects import BpfObject
from tempos_fastpath.errors import NotPinned
from tempos_fastpath.layout import decode_drop
from tempos_fastpath.survival.ownership import Identity
from tempos_fastpath.survival.pins import Pins

OBJECT = Path(__file__).with_name("drops.bpf.o")
PROGRAMS = ("tempos_refused", "tempos_unsent")
#: What devices answer that take no redirected frames, now or ever: ENXIO and ENOTSUP (524 is the kernel's own
#: number for it) most of them; some drivers, while no XDP program is attached to the card, ENETDOWN (mlx5,
#: though it is up), EINVAL (bnxt) or ENODEV.
TAKES_NONE = frozenset({errno.ENXIO, errno.EOPNOTSUPP, 524, errno.ENETDOWN, errno.EINVAL, errno.ENODEV})
_MAPS = ("drops", "ingress")
#: What the pin of a program's link is called, before the program's name.
_PIN = "drops_"
#: Of the fast path's: what it counts as sent, and which copies an interface was just given.
_SHARED = ("copies", "sending")


class Drops:
    """The counting programs, loaded and attached. Raises Unavailable where they cannot be. Blocking.

    ``maps``: the fast path's, by name. ``pins``: where to pin them, or None; with ``adopt`` what is pinned
    there is gone on with.
    """

    def __init__(
        self, identity: Identity, maps: Mapping[str, Map], pins: Pins | None, *, adopt: bool
    ) -> None:
        rodata = {
            "our_namespace": identity.namespace.to_bytes(8, sys.byteorder),
            "our_egress": maps["egress"].id.to_bytes(4, sys.byteorder),
        }
        with contextlib.ExitStack() as stack:
            share = {}
            if pins is not None and adopt:
                for name in _MAPS:
                    with contextlib.suppress(Unavailable):
                        share[name] = stack.enter_context(pinned_map(pins.path(name)))
            self._object = BpfObject(OBJECT, rodata, {**share, **{name: maps[name] for name in _SHARED}})
        self._refusals: Mapping[tuple[int, int], int] = {}
        self._links: list[Link] = []
        try:
            for name in PROGRAMS:
                self._replace(name, pins)
            if pins is not None and not share:
                for name in _MAPS:
                    pins.put_map(name, self._object.map(name))
        except NotPinned:
            pass  # the fast path's own pins say so already
        except BaseException:
            self.close()
            raise

    def pin(self, pins: Pins) -> None:
        """Let it outlive this process; raises NotPinned."""
        for name, link in zip(PROGRAMS, self._links, strict=True):
            pins.put_tracing(link, _PIN + name)
        for name in _MAPS:
            pins.put_map(name, self._object.map(name))

    def watch(self, interfaces: Collection[int]) -> None:
        """Count what comes in by these from now on."""
        ingress = self._object.map("ingress")
        for key in tuple(ingress.keys()):
            if int.from_bytes(key, sys.byteorder) not in interfaces:
                ingress.delete(key)
        for ifindex in interfaces:
            ingress.update(ifindex, b"\x01")

    def read(self, names: Mapping[int, str]) -> dict[str, dict[str, int]]:
        """Frames lost by interface and the name of the errno; ``names`` of interfaces by index.

        ``ENOBUFS`` stands for a device that took fewer frames than it was given, without an error.
        """
        drops = self._object.map("drops")
        found: dict[str, dict[str, int]] = {}
        for key in drops.keys():  # noqa: SIM118 - a BPF map, no dict
            value = drops.lookup(key)
            if value is None:
                continue
            ifindex, code = decode_drop(key)
            row = found.setdefault(names.get(ifindex, f"interface {ifindex}"), {})
            name = errno.errorcode.get(code or errno.ENOBUFS, str(code))
            row[name] = row.get(name, 0) + int.from_bytes(value, sys.byteorder)
        return found

    def refusals(self) -> dict[tuple[int, int], int]:
        """Frames lost because an interface takes none, by its index and the errno."""
        drops = self._object.map("drops")
        found: dict[tuple[int, int], int] = {}
        for key in drops.keys():  # noqa: SIM118 - a BPF map, no dict
            ifindex, code = decode_drop(key)
            if code in TAKES_NONE and ifindex:
                found[ifindex, code] = int.from_bytes(drops.lookup(key) or b"", sys.byteorder)
        return found

    def refused_anew(self) -> dict[int, str]:
        """Interfaces, by index, that took none of some frames since the last time, and the errno's name."""
        before, self._refusals = self._refusals, self.refusals()
        return {
            ifindex: errno.errorcode.get(code, str(code))
            for (ifindex, code), frames in self._refusals.items()
            if frames > before.get((ifindex, code), 0)
        }

    def close(self) -> None:
        """Let go of programs and maps; those that are pinned go on. Safe to call twice."""
        for link in self._links:
            link.close()
        self._links.clear()
        self._object.close()

    def _replace(self, name: str, pins: Pins | None) -> None:
        """Attach, in place of an earlier broker's; for a moment nobody counts, rather than two."""
        path = pins.path(_PIN + name) if pins is not None else None
        if path is not None:
            path.unlink(missing_ok=True)
        link = attach_tracing(self._object.program(name))
        self._links.append(link)
        if path is not None:
            link.pin(path)
