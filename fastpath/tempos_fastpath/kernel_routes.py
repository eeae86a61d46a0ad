"""The routes the kernel holds: which, for which epoch, by which egress slots or devmaps.

Rules: a slot that any route in the kernel names is never given to another interface; a route that is
already there, byte for byte, is not swapped again. What a route needs is chosen on the event loop (`take`);
what waits for the kernel (`write`, `delete`, `adopt`, `mend`) runs in threads, one call per topic at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from tempos import Unavailable, _abi
from tempos._abi import Way
from tempos._rows import Rows
from tempos_bpf.maps import Map, MapType, create_map
from tempos_fastpath.fanouts import Fanouts
from tempos_fastpath.layout import ROUTE_SIZE, HeldRoute, decode_route, devmap_entry, encode_route
from tempos_fastpath.plan import Plan


@dataclass(frozen=True, slots=True)
class Claim:
    """What a route uses: the egress slot of each interface, or devmaps from key ``fanout`` on."""

    slots: dict[int, int] = field(default_factory=dict)
    fanout: int | None = None


class KernelRoutes:
    """The `routes` map, the `egress` map and the devmaps that go with it."""

    def __init__(self, routes: Map, egress: Map, fanouts: Fanouts, rows: Rows) -> None:
        self._routes = routes
        self._row_of = rows.of
        self._egress = egress
        self._fanouts = fanouts
        #: Of each topic in force, its row and its route there.
        self._held: dict[int, tuple[int, bytes]] = {}
        self._uses: dict[int, frozenset[int]] = {}
        self._slots: dict[int, int] = {}

    def adopt(self, rows: Mapping[int, int]) -> dict[int, int]:
        """Take up what an earlier broker left: topic -> epoch. Raises Unavailable if it cannot be read.

        ``rows``: where its topics stand.
        """
        for slot in range(_abi.MAX_EGRESS):
            entry = self._egress.lookup(slot)
            ifindex = devmap_entry(entry)[0] if entry else 0
            # Of two slots for one interface either will do; both stay while routes name them.
            if ifindex:
                self._slots.setdefault(ifindex, slot)
        found: dict[int, HeldRoute] = {}
        for topic, row in rows.items():
            inner = self._routes.inner(row)
            if inner is None:
                continue
            with inner:
                value = inner.lookup(0)
            assert value is not None, "an array has all its keys"
            found[topic] = decode_route(value)
            self._uses[topic] = found[topic].slots
            self._held[topic] = row, value
        self._fanouts.adopt({topic: held for topic, held in found.items() if held.way is Way.BROADCAST})
        return {topic: held.epoch for topic, held in found.items()}

    def clear(self) -> None:
        """Take every route out, known or not."""
        for row in range(self._routes.max_entries):
            self._routes.delete(row)
        for topic in self._held:
            self._fanouts.settle(topic, None)
        self._held.clear()
        self._uses.clear()

    def take(self, plan: Plan) -> Claim | str:
        """What the route needs, for the topic from now on; or why it cannot be had."""
        if plan.way is Way.CLONE:
            return Claim()
        if plan.way is Way.BROADCAST:
            first = self._fanouts.take(plan.topic, plan.broadcast.devmaps)
            return first if isinstance(first, str) else Claim(fanout=first)
        slots = self._take_slots(plan.topic, plan.interfaces)
        if slots is None:
            return f"more than {_abi.MAX_EGRESS} interfaces towards members"
        return Claim(slots)

    def _take_slots(self, topic: int, interfaces: Collection[int]) -> dict[int, int] | None:
        """The egress slot of each interface, or None if there are too many; the topic uses them from now."""
        needed = set(interfaces)
        missing = needed - self._slots.keys()
        if len(missing) > len(self._free()):
            used = frozenset().union(*self._uses.values())
            self._slots = {
                index: slot for index, slot in self._slots.items() if index in needed or slot in used
            }
        free = self._free()
        if len(missing) > len(free):
            return None
        self._slots.update(zip(sorted(missing), free, strict=False))
        slots = {index: self._slots[index] for index in needed}
        # Until the swap is over, packets may still go by the old route's slots.
        self._uses[topic] = self._uses.get(topic, frozenset()).union(slots.values())
        return slots

    def write(self, plan: Plan, claim: Claim) -> None:
        """Swap the route in; returns when no packet uses an older one."""
        for ifindex, slot in claim.slots.items():
            self._fanouts.put_slot(slot, ifindex)
        if claim.fanout is not None:
            self._fanouts.make(claim.fanout)
        row = self._row_of[plan.topic]
        value = encode_route(plan, row, claim.slots, claim.fanout or 0)
        if self._held.get(plan.topic) != (row, value):
            with create_map(
                "route", MapType.ARRAY, key_size=4, value_size=ROUTE_SIZE, max_entries=1
            ) as inner:
                inner.update(0, value)
                self._routes.update(row, inner)
        self._held[plan.topic] = row, value
        self._uses[plan.topic] = frozenset(claim.slots.values())
        self._fanouts.settle(plan.topic, claim.fanout)

    def delete(self, topic: int) -> None:
        """Take the route out, if there is one."""
        if topic in self._held:
            row, _ = self._held[topic]
            self._routes.delete(row)
            del self._held[topic]
        self._uses.pop(topic, None)
        self._fanouts.settle(topic, None)

    def mend(self, present: Collection[int]) -> None:
        """Put back the interfaces that went away and came again under the same index.

        The kernel empties a slot when its interface is unregistered, and routes would lead nowhere.
        """
        for ifindex, slot in tuple(self._slots.items()):
            entry = self._egress.lookup(slot)
            if ifindex not in present or (entry and devmap_entry(entry)[0] == ifindex):
                continue
            # Gone again in between: the next look will show it. The slot may be another's meanwhile.
            with contextlib.suppress(Unavailable):
                self._fanouts.put_slot(slot, ifindex, partial(self._is_at, ifindex, slot))
        self._fanouts.mend(present)

    def _is_at(self, ifindex: int, slot: int) -> bool:
        return self._slots.get(ifindex) == slot

    def _free(self) -> list[int]:
        taken = frozenset(self._slots.values()).union(*self._uses.values())
        return [slot for slot in range(_abi.MAX_EGRESS) if slot not in taken]
