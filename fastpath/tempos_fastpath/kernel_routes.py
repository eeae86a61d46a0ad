"""The routes the kernel holds: which, for which epoch, through which egress slots.

Rules: a slot that any route in the kernel names is never given to another interface; a route that is
already there, byte for byte, is not swapped again. The slots are chosen on the event loop; what waits
for the kernel (`write`, `delete`, `adopt`, `mend`) runs in threads, one call per topic at a time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Mapping

from tempos import Unavailable, _abi
from tempos_fastpath.layout import ROUTE_SIZE, decode_route, devmap_entry, devmap_value, encode_route
from tempos_fastpath.maps import Map, MapType, create_map
from tempos_fastpath.plan import Plan


class KernelRoutes:
    """The `routes` map and the `egress` map that goes with it."""

    def __init__(self, routes: Map, egress: Map) -> None:
        self._routes = routes
        self._egress = egress
        self._held: dict[int, bytes] = {}
        self._uses: dict[int, frozenset[int]] = {}
        self._slots: dict[int, int] = {}
        self._filling = threading.Lock()

    def adopt(self) -> dict[int, int]:
        """Take up what an earlier broker left: topic -> epoch. Raises Unavailable if it cannot be read."""
        for slot in range(_abi.MAX_EGRESS):
            entry = self._egress.lookup(slot)
            ifindex = devmap_entry(entry)[0] if entry else 0
            # Of two slots for one interface either will do; both stay while routes name them.
            if ifindex:
                self._slots.setdefault(ifindex, slot)
        epochs: dict[int, int] = {}
        for topic in range(_abi.TOPICS):
            inner = self._routes.inner(topic)
            if inner is None:
                continue
            with inner:
                value = inner.lookup(0)
            assert value is not None, "an array has all its keys"
            epochs[topic], self._uses[topic] = decode_route(value)
            self._held[topic] = value
        return epochs

    def clear(self) -> None:
        """Take every route out, known or not."""
        for topic in range(_abi.TOPICS):
            self._routes.delete(topic)
        self._held.clear()
        self._uses.clear()

    def take_slots(self, topic: int, interfaces: Collection[int]) -> dict[int, int] | None:
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

    def write(self, plan: Plan, slots: Mapping[int, int]) -> None:
        """Swap the route in; returns when no packet uses an older one."""
        with self._filling:
            for ifindex, slot in slots.items():
                self._egress.update(slot, devmap_value(ifindex))
        value = encode_route(plan, slots)
        if self._held.get(plan.topic) != value:
            with create_map(
                "route", MapType.ARRAY, key_size=4, value_size=ROUTE_SIZE, max_entries=1
            ) as inner:
                inner.update(0, value)
                self._routes.update(plan.topic, inner)
        self._held[plan.topic] = value
        self._uses[plan.topic] = frozenset(slots.values())

    def delete(self, topic: int) -> None:
        """Take the route out, if there is one."""
        if topic in self._held:
            self._routes.delete(topic)
            del self._held[topic]
        self._uses.pop(topic, None)

    def mend(self, present: Collection[int]) -> None:
        """Put back the interfaces that went away and came again under the same index.

        The kernel empties a slot when its interface is unregistered, and routes would lead nowhere.
        """
        for ifindex, slot in tuple(self._slots.items()):
            entry = self._egress.lookup(slot)
            if ifindex not in present or (entry and devmap_entry(entry)[0] == ifindex):
                continue
            # Gone again in between: the next look will show it.
            with self._filling, contextlib.suppress(Unavailable):
                # The slot may have been given to another interface meanwhile.
                if self._slots.get(ifindex) == slot:
                    self._egress.update(slot, devmap_value(ifindex))

    def _free(self) -> list[int]:
        taken = frozenset(self._slots.values()).union(*self._uses.values())
        return [slot for slot in range(_abi.MAX_EGRESS) if slot not in taken]
