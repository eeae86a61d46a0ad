"""The devmaps that the kernel broadcasts into, and the egress program of the interfaces in them.

Rules: devmaps are shared by all topics that need the same; they are complete before a route names them,
and their keys are given to others only after the last such route is gone. The kernel runs one program on
everything an interface gets in a receive cycle, whichever slot came first. So while an interface is in any
of these devmaps, its slots in `egress` have the egress program too: set before the devmaps are made, which
waits for the cycles that began without it, and removed after they are gone.

`take` is called on the event loop, everything else in threads.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

from tempos import Unavailable, _abi
from tempos_bpf.maps import Map, MapType, create_map
from tempos_bpf.objects import Program
from tempos_fastpath.broadcast import Devmaps, plan_broadcast
from tempos_fastpath.layout import HeldRoute, devmap_entry, devmap_value


@dataclass(slots=True)
class _Range:
    """Keys in a row, and the devmaps there once they are made."""

    devmaps: Devmaps
    made: tuple[Map | None, ...] = ()

    @property
    def interfaces(self) -> set[int]:
        return {ifindex for devmap in self.devmaps if devmap for ifindex in devmap}

    def release(self) -> None:
        for each in self.made:
            if each is not None:
                each.close()
        self.made = ()


class Fanouts:
    """The `fanouts` map, and the slots of the `egress` map. ``program``: the egress program."""

    def __init__(self, fanouts: Map, egress: Map, program: Program) -> None:
        self._fanouts = fanouts
        self._egress = egress
        self._program = program
        self._ranges: dict[int, _Range] = {}
        self._users: dict[int, frozenset[int]] = {}
        self._marked: frozenset[int] = frozenset()
        # The first is held for moments, the second for a slot's update, the third while the kernel waits.
        self._knowing = threading.Lock()
        self._filling = threading.Lock()
        self._making = threading.Lock()

    def adopt(self, held: dict[int, HeldRoute]) -> None:
        """Go on with the devmaps of an earlier broker's routes, by topic, made anew with our program.

        Raises :class:`~tempos.Unavailable` for a route that was not made as we make them.
        """
        for topic, route in held.items():
            planned = plan_broadcast([[ifindex for ifindex, _ in group] for group in route.egresses])
            if isinstance(planned, str) or planned.weights != tuple(map(dict, route.egresses)):
                raise Unavailable(f"the devmaps of topic {topic} are numbered in another way")
            self._ranges.setdefault(route.fanout, _Range(planned.devmaps))
            self._users[topic] = frozenset((route.fanout,))
        for first in tuple(self._ranges):
            self.make(first, complete=False)

    def take(self, topic: int, devmaps: Devmaps) -> int | str:
        """The first key of these devmaps, which the topic uses from now on too; or why there is none."""
        with self._knowing:
            first = next((key for key, each in self._ranges.items() if each.devmaps == devmaps), None)
            if first is None:
                wanted = _Range(devmaps)
                if len(self._interfaces() | wanted.interfaces) > _abi.MAX_FANOUT_EGRESS:
                    return f"broadcasts leave by {_abi.MAX_FANOUT_EGRESS} other interfaces already"
                first = self._room(len(devmaps))
                if first is None:
                    return "the kernel's table of devmaps is full"
                self._ranges[first] = wanted
            self._users[topic] = self._users.get(topic, frozenset()) | {first}
            return first

    def make(self, first: int, *, complete: bool = True) -> None:
        """See to it that the devmaps from key ``first`` on are there.

        Raises :class:`~tempos.Unavailable` where an interface is gone, if they must be ``complete``.
        """
        with self._making:
            with self._knowing:
                wanted = self._ranges[first]
            if wanted.made:
                return
            self.mark()
            with contextlib.ExitStack() as undo:
                made = []
                for key, devmap in enumerate(wanted.devmaps, first):
                    made.append(self._make_one(key, devmap, complete) if devmap else None)
                    if made[-1] is not None:
                        undo.callback(made[-1].close)
                wanted.made = tuple(made)
                undo.pop_all()

    def has(self, topic: int) -> bool:
        """Whether the topic uses any devmaps."""
        return topic in self._users

    def settle(self, topic: int, first: int | None) -> None:
        """No packet uses any devmaps for the topic any more but those from key ``first`` on, if any."""
        with self._knowing:
            if self._users.pop(topic, None) is None and first is None:
                return
            if first is not None:
                self._users[topic] = frozenset((first,))
            used = frozenset().union(*self._users.values())
            # What the kernel has there stays until somebody else gets the key: nothing leads to it.
            unused = [self._ranges.pop(key) for key in self._ranges.keys() - used]
        if unused:
            self.mark()
            with self._making:
                for each in unused:
                    each.release()

    def put_slot(self, slot: int, ifindex: int, still: Callable[[], bool] = lambda: True) -> None:
        """Fill a slot of `egress`, with the program where the interface must have it; if ``still`` so."""
        with self._filling:
            if still():
                self._egress.update(slot, self._value(ifindex))

    def mark(self) -> None:
        """Give the slots in `egress` the program, or take it away, as the devmaps now demand."""
        with self._filling:
            with self._knowing:
                marked = frozenset(self._interfaces())
            if marked == self._marked:
                return
            changed, self._marked = marked ^ self._marked, marked
            for slot in range(_abi.MAX_EGRESS):
                entry = self._egress.lookup(slot)
                ifindex = devmap_entry(entry)[0] if entry else 0
                if ifindex in changed:
                    # Gone in between: then there is no slot to give it to.
                    with contextlib.suppress(Unavailable):
                        self._egress.update(slot, self._value(ifindex))

    def mend(self, present: Collection[int]) -> None:
        """Put interfaces back that went away and came again: the kernel empties their slots."""
        with self._knowing:
            ranges = tuple(self._ranges.values())
        with self._making:
            for each in ranges:
                for devmap, made in zip(each.devmaps, each.made, strict=False):
                    if devmap is None or made is None:
                        continue
                    for slot, ifindex in enumerate(devmap):
                        if ifindex in present and made.lookup(slot) is None:
                            with contextlib.suppress(Unavailable):
                                made.update(slot, devmap_value(ifindex, self._program.fd))

    def close(self) -> None:
        """Let go of the devmaps; those the kernel uses live on in it. Safe to call twice."""
        for each in self._ranges.values():
            each.release()
        self._ranges.clear()

    def _make_one(self, key: int, devmap: tuple[int, ...], complete: bool) -> Map:
        made = create_map("fanout", MapType.DEVMAP, key_size=4, value_size=8, max_entries=len(devmap))
        with contextlib.ExitStack() as undo:
            undo.callback(made.close)
            for slot, ifindex in enumerate(devmap):
                try:
                    made.update(slot, devmap_value(ifindex, self._program.fd))
                except Unavailable:
                    if complete:
                        raise
            self._fanouts.update(key, made)
            undo.pop_all()
        return made

    def _value(self, ifindex: int) -> bytes:
        return devmap_value(ifindex, self._program.fd if ifindex in self._marked else 0)

    def _interfaces(self) -> set[int]:
        return set().union(*(each.interfaces for each in self._ranges.values()))

    def _room(self, length: int) -> int | None:
        """The first key of so many free ones in a row."""
        free = 0
        for first in sorted(self._ranges):
            if first - free >= length:
                break
            free = first + len(self._ranges[first].devmaps)
        return free if free + length <= _abi.MAX_FANOUTS else None
