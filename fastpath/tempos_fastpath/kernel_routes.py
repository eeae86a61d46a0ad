"""The routes the kernel holds: which, for which epoch, by which egress slots or devmaps.

Rules: a slot that any route in the kernel names is never given to another interface; a route that is
already there, byte for byte, is not swapped again. A wide topic with few members has a small route; what
stands in `small_routes` comes before what stands in `routes`, so one that becomes large or small is swapped
by one step, too. What a route needs is chosen on the event loop (`take`);
what waits for the kernel (`write`, `delete`, `adopt`, `mend`) runs in threads, for a topic one at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from tempos import Unavailable, _abi
from tempos._abi import NARROW, Way
from tempos._rows import Rows
from tempos_bpf.errors import BpfError
from tempos_bpf.maps import Map, MapType, create_map
from tempos_fastpath.fanouts import Fanouts
from tempos_fastpath.layout import (
    ROUTE_SIZE,
    SMALL_ROUTE_SIZE,
    HeldRoute,
    decode_route,
    devmap_entry,
    encode_route,
)
from tempos_fastpath.plan import Plan

#: What a map with one route is called.
_ROUTE = "route"
#: Routes that one call reads, a megabyte of large ones; and that one call puts there: each takes a descriptor
#: until it is over.
_READ_AT_ONCE = _PUT_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Claim:
    """What a route uses: the egress slot of each interface, or devmaps from key ``fanout`` on."""

    slots: dict[int, int] = field(default_factory=dict)
    fanout: int | None = None


class _Uses:
    """The slots that topics use, and how many use each: looked at and changed by any thread."""

    def __init__(self) -> None:
        self._of: dict[int, frozenset[int]] = {}
        self._users: Counter[int] = Counter()
        #: What was used last: one object for thousands of topics that use the same.
        self._last: frozenset[int] = frozenset()
        self._lock = threading.Lock()

    def add(self, topic: int, slots: Iterable[int]) -> None:
        """The topic uses these, too."""
        with self._lock:
            before = self._of.get(topic, frozenset())
            if not before.issuperset(slots):
                self._set(topic, before.union(slots))

    def put(self, topic: int, slots: Iterable[int]) -> None:
        """The topic uses these, and no others."""
        with self._lock:
            self._set(topic, frozenset(slots))

    def has(self, topic: int) -> bool:
        """Whether the topic uses any."""
        return topic in self._of

    def all(self) -> set[int]:
        """Every slot that some topic uses."""
        with self._lock:
            return set(self._users)

    def _set(self, topic: int, slots: frozenset[int]) -> None:
        before = self._of.pop(topic, frozenset())
        if slots:
            if slots != self._last:
                self._last = slots
            self._of[topic] = self._last
        for slot in slots - before:
            self._users[slot] += 1
        for slot in before - slots:
            self._users[slot] -= 1
            if not self._users[slot]:
                del self._users[slot]


class _Held(NamedTuple):
    """A route in force: where it stands, and what tells it from others."""

    row: int
    small: bool
    digest: bytes


@dataclass(slots=True)
class _Swap:
    """A route on its way into its table, and why it did not get there."""

    topic: int
    claim: Claim
    held: _Held
    value: bytes
    error: BpfError | None = None

    @property
    def entry(self) -> tuple[int, bytes]:
        """Where in the table it is to stand, and what."""
        return self.held.row, self.value


class KernelRoutes:
    """The maps of routes, the `egress` map and the devmaps that go with it."""

    def __init__(self, routes: Map, small: Map, egress: Map, fanouts: Fanouts, rows: Rows) -> None:
        self._large = routes
        self._small = small
        self._row_of = rows.of
        self._egress = egress
        self._fanouts = fanouts
        self._held: dict[int, _Held] = {}
        self._uses = _Uses()
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
        for topic, small, value in self._in_force(rows):
            route = decode_route(value)
            if not route.topic:
                # The broker before that was ended as it stopped.
                continue
            found[topic] = route
            if route.topic != topic:
                raise Unavailable(f"the route of topic {topic} is that of topic {route.topic}")
            self._uses.put(topic, route.slots)
            self._held[topic] = _Held(rows[topic], small, _digest(value))
        self._fanouts.adopt({topic: held for topic, held in found.items() if held.way is Way.BROADCAST})
        return {topic: held.epoch for topic, held in found.items()}

    def _in_force(self, rows: Mapping[int, int]) -> Iterator[tuple[int, bool, bytes]]:
        """Topics that have a route, whether that is a small one, and the route."""
        topics = list(rows)
        for some in (topics[first : first + _READ_AT_ONCE] for first in range(0, len(topics), _READ_AT_ONCE)):
            wide = [topic for topic in some if topic >= NARROW]
            values = self._small.first_values([rows[topic] for topic in wide], SMALL_ROUTE_SIZE)
            small = dict(zip(wide, values, strict=True))
            large = self._large.first_values([rows[topic] for topic in some], ROUTE_SIZE)
            for topic, value in zip(some, large, strict=True):
                if (little := small.get(topic)) is not None:
                    if value is not None:
                        # A swap that a kill cut short: what is not in force must never be.
                        self._large.delete(rows[topic])
                    yield topic, True, little
                elif value is not None:
                    yield topic, False, value

    def clear(self) -> None:
        """Take every route out, known or not."""
        for table in (self._small, self._large):
            for row in range(table.max_entries):
                table.delete(row)
        for topic in self._held:
            self._fanouts.settle(topic, None)
            self._uses.put(topic, ())
        self._held.clear()

    def take(self, plan: Plan) -> Claim | str:
        """What the route needs, for the topic from now on; or why it cannot be had."""
        if plan.way is Way.CLONE:
            return Claim()
        if plan.way is Way.BROADCAST:
            first = self._fanouts.take(plan.topic, plan.broadcast.devmaps)
            return first if isinstance(first, str) else Claim(fanout=first)
        slots = self._take_slots(plan.topic, plan.wires)
        if slots is None:
            return f"more than {_abi.MAX_EGRESS} interfaces towards members"
        return Claim(slots)

    def _take_slots(self, topic: int, interfaces: Collection[int]) -> dict[int, int] | None:
        """The egress slot of each interface, or None if there are too many; the topic uses them from now."""
        needed = set(interfaces)
        missing = needed - self._slots.keys()
        if missing and not self._find_slots(needed, missing):
            return None
        slots = {index: self._slots[index] for index in needed}
        # Until the swap is over, packets may still go by the old route's slots.
        self._uses.add(topic, slots.values())
        return slots

    def _find_slots(self, needed: Collection[int], missing: Collection[int]) -> bool:
        """Give those that are ``missing`` a slot each that nobody uses; whether there are so many."""
        if len(missing) > len(self._free()):
            used = self._uses.all()
            self._slots = {
                index: slot for index, slot in self._slots.items() if index in needed or slot in used
            }
        free = self._free()
        if len(missing) > len(free):
            return False
        self._slots.update(zip(sorted(missing), free, strict=False))
        return True

    def write(self, entries: Sequence[tuple[Plan, Claim]]) -> list[Unavailable | None]:
        """Swap routes in; returns when no packet uses older ones, with why one could not be, for each.

        Each is of another topic.
        """
        swaps: list[_Swap | Unavailable] = []
        new: dict[bool, list[_Swap]] = {True: [], False: []}
        filled: set[tuple[int, int]] = set()
        for plan, claim in entries:
            try:
                swap = self._prepare(plan, claim, filled)
            except Unavailable as error:
                swaps.append(error)
                continue
            swaps.append(swap)
            if swap.held != self._held.get(plan.topic):
                new[swap.held.small].append(swap)
        for small, some in new.items():
            for first in range(0, len(some), _PUT_AT_ONCE):
                self._put(small, some[first : first + _PUT_AT_ONCE])
        return [each if isinstance(each, Unavailable) else self._settle(each) for each in swaps]

    def _prepare(self, plan: Plan, claim: Claim, filled: set[tuple[int, int]]) -> _Swap:
        """``filled``: interfaces and slots that are seen to already."""
        for pair in claim.slots.items() - filled:
            ifindex, slot = pair
            self._fanouts.put_slot(slot, ifindex)
            filled.add(pair)
        if claim.fanout is not None:
            self._fanouts.make(claim.fanout)
        row = self._row_of[plan.topic]
        small = plan.topic >= NARROW and plan.is_small
        value = encode_route(plan, row, claim.slots, claim.fanout or 0, small=small)
        return _Swap(plan.topic, claim, _Held(row, small, _digest(value)), value)

    def _put(self, small: bool, swaps: Sequence[_Swap]) -> None:
        """Have these in force, so many that they go by one call; each swap knows why it is not."""
        table = self._table(small)
        try:
            table.put_arrays(_ROUTE, [each.entry for each in swaps])
        except BpfError:
            # Whose fault it was is seen one by one.
            for each in swaps:
                try:
                    table.put_arrays(_ROUTE, [each.entry])
                except BpfError as error:
                    each.error = error

    def _settle(self, swap: _Swap) -> BpfError | None:
        """What an older route used is free, if the new one is in force."""
        if swap.error is not None:
            return swap.error
        before = self._held.get(swap.topic)
        if before is not None and before.small != swap.held.small:
            # A large one is in force once the small one is gone; the other way it is of no use any more.
            self._table(before.small).delete(before.row)
        self._held[swap.topic] = swap.held
        self._uses.put(swap.topic, swap.claim.slots.values())
        self._fanouts.settle(swap.topic, swap.claim.fanout)
        return None

    def knows(self, topic: int) -> bool:
        """Whether the topic has a route there, or uses anything for one."""
        return topic in self._held or self._uses.has(topic) or self._fanouts.has(topic)

    def delete(self, topic: int) -> None:
        """Take the route out, if there is one."""
        if (held := self._held.get(topic)) is not None:
            self._table(held.small).delete(held.row)
            del self._held[topic]
        self._uses.put(topic, ())
        self._fanouts.settle(topic, None)

    @property
    def held(self) -> tuple[int, ...]:
        """The topics that have a route there."""
        return tuple(self._held)

    def void_wide(self) -> None:
        """Take out the routes of wide topics by a call or two, however many they are; nothing follows.

        In the place of each stands one that is no topic's, which is none to the programs. What could not be
        put there is held still.
        """
        for small, size in ((True, SMALL_ROUTE_SIZE), (False, ROUTE_SIZE)):
            held = {
                topic: each.row
                for topic, each in self._held.items()
                if topic >= NARROW and each.small is small
            }
            if held:
                with contextlib.suppress(BpfError), _route_map(bytes(size)) as void:
                    self._table(small).update_many([(row, void) for row in held.values()])
                    for topic in held:
                        del self._held[topic]

    def _table(self, small: bool) -> Map:
        return self._small if small else self._large

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
        taken = self._uses.all().union(self._slots.values())
        return [slot for slot in range(_abi.MAX_EGRESS) if slot not in taken]


def _route_map(value: bytes) -> Map:
    made = create_map(_ROUTE, MapType.ARRAY, key_size=4, value_size=len(value), max_entries=1)
    try:
        made.update(0, value)
    except BpfError:
        made.close()
        raise
    return made


def _digest(value: bytes) -> bytes:
    """What stands for a route that is in force: all of it would be kept twice."""
    return hashlib.blake2b(value, digest_size=16).digest()
