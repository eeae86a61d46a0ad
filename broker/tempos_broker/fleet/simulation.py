"""Many brokers and members of one fleet in one process: `python -m tempos_broker.fleet.simulation`.

The brokers' fleets are the real ones, over a store in memory with delays; what they would do with routes is
left out. Time is the event loop's own and jumps to whatever is due next, so what is told in seconds is what
delays make of it, and what processors need is told apart. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import selectors
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, cast

from tempos_broker.account.accounts import Holder
from tempos_broker.account.changes import Changes
from tempos_broker.config.model import FleetConfig
from tempos_broker.fleet import rows
from tempos_broker.fleet.fleet import Fleet
from tempos_broker.fleet.memory import LocalRegistry, Memory
from tempos_broker.fleet.registry import Change
from tempos_broker.fleet.rows import BrokerRow, MemberRow
from tempos_broker.fleet.view import View
from tempos_broker.members.known import Lease, Wanted

#: Seconds that a swap of routes takes.
_SWAP = 0.01
_PORTS = 9998, 9997


class _Selector(selectors.DefaultSelector):
    """Waits for nothing: the time that it was to wait has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout:
            self.passed += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose time is what it was to wait so far."""

    def __init__(self) -> None:
        self._waits = _Selector()
        super().__init__(self._waits)

    def time(self) -> float:
        return self._waits.passed


class _Registry(LocalRegistry):
    """Counts what it is told."""

    told = 0

    async def watch(self, after: int) -> AsyncIterator[Sequence[Change]]:
        async for changes in super().watch(after):
            self.told += len(changes)
            yield changes


class _Members:
    """The members that are at home at one broker, and nothing of the others."""

    def __init__(self) -> None:
        self.own: dict[Holder, Lease] = {}
        self.zone = ""
        self.lease = 10.0
        self.holdings = SimpleNamespace(
            wants=SimpleNamespace(on_change=None), all=self.own.values, on_home=None
        )

    def moved(self, lease: Lease) -> set[int]:
        return set()

    def lease_of(self, holder: Holder) -> Lease | None:
        return self.own.get(holder)

    def leaving(self) -> dict[Holder, object]:
        return {}


class _Routes:
    async def keep_wants(self) -> None:
        return

    async def swap_all(self, topics: Iterable[int]) -> None:
        if topics:
            await asyncio.sleep(_SWAP)

    def is_due(self, topic: int) -> bool:
        return False


class _Fleet(Fleet):
    """Notes when it has whom."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.has: set[Holder] = set()

    def _adopt_one(self, row: MemberRow) -> set[int]:
        self.has.add(row.holder)
        return {1}

    def _take(self, holder: Holder) -> set[int]:
        gone = holder in self.has and holder not in self.view.members
        self.has.discard(holder) if gone else None
        return super()._take(holder) | ({1} if gone else set())


class World:
    """``brokers`` over one store, to which a call takes up to ``delay`` seconds."""

    def __init__(self, brokers: int, delay: float, seed: int) -> None:
        self.memory = Memory()
        self.random = random.Random(seed)
        self.registries = [
            _Registry(self.memory, lambda: self.random.uniform(0, delay)) for _ in range(brokers)
        ]
        self.members = [_Members() for _ in range(brokers)]
        config = FleetConfig("sim", ("http://nowhere:1",), lease=10)
        self.fleets = [
            _Fleet(
                config, BrokerRow(f"b{at}", f"10.1.{at // 250}.{at % 250 + 1}", *_PORTS, at),
                self.registries[at], cast("Any", self.members[at]), cast("Any", _Routes()), Changes(),
            )
            for at in range(brokers)
        ]  # fmt: skip
        self.numbers = [fleet.me.number for fleet in self.fleets]

    def join(self, number: int) -> Holder:
        """A member more, which hears all."""
        at = number % len(self.fleets)
        holder = Holder(f"10.2.{number // 200}.{number % 200 + 1}", 5000, number + 1)
        lease = Lease(holder, 1e9, {"plant/#": Wanted(f"g{number % 8}")})
        lease.hears = tuple(each for each in self.numbers if each != self.numbers[at])
        self.members[at].own[holder] = lease
        self.fleets[at]._note(holder)
        return holder

    def leave(self, number: int) -> Holder:
        """One less."""
        at = number % len(self.fleets)
        holder = Holder(f"10.2.{number // 200}.{number % 200 + 1}", 5000, number + 1)
        del self.members[at].own[holder]
        self.fleets[at]._note(holder)
        return holder

    @property
    def messages(self) -> int:
        """Changes that brokers were told so far."""
        return sum(each.told for each in self.registries)


async def _until(condition: Callable[[], bool]) -> float:
    """Wait; the seconds that it took."""
    began = asyncio.get_running_loop().time()
    while not condition():
        await asyncio.sleep(0.002)
    return asyncio.get_running_loop().time() - began


async def play(brokers: int, members: int, changes: int, delay: float, seed: int) -> dict[str, Any]:
    """Members join at once, then some leave and join one by one."""
    world = World(brokers, delay, seed)
    fleets = world.fleets
    for fleet in fleets:
        fleet.begin()
    begun = await _until(lambda: all(len(each.view.brokers) == brokers for each in fleets))
    for number in range(members):
        world.join(number)
    before = world.messages
    joined = await _until(lambda: sum(len(each.has) for each in fleets) == members * (brokers - 1))
    at_once = world.messages - before
    await asyncio.sleep(5)
    took: list[float] = []
    confirmed: list[float] = []
    before, revision = world.messages, world.memory.revision
    for _ in range(changes):
        number = world.random.randrange(members)
        left = world.leave(number)
        took.append(await _until(lambda left=left: not any(left in each.has for each in fleets)))  # type: ignore[misc]
        came = world.join(number)
        home = fleets[number % brokers]
        others = [each for each in fleets if each is not home]
        took.append(await _until(lambda came=came, others=others: all(came in each.has for each in others)))  # type: ignore[misc]
        confirmed.append(
            await _until(lambda came=came, home=home: home.confirmed(came)[1] == brokers)  # type: ignore[misc]
        )
        await asyncio.sleep(1)
    written, told = world.memory.revision - revision, world.messages - before
    for fleet in fleets:
        await fleet.close()
    return {
        "brokers": brokers,
        "members": members,
        "brokers agree after s": round(begun, 3),
        "all joined everywhere after s": round(joined, 3),
        "told for all at once": at_once,
        "changes": 2 * changes,
        "route everywhere after s": sorted(round(each, 4) for each in took),
        "confirmed after s more": sorted(round(each, 4) for each in confirmed),
        "writes per change": written / (2 * changes) if changes else 0,
        "told per change": told / (2 * changes) if changes else 0,
    }


def view_bytes(brokers: int, members: int) -> int:
    """Memory of what one broker knows of a fleet."""
    hears = tuple(range(1 << 30, (1 << 30) + brokers - 1))
    tracemalloc.start()
    view = View()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(members):
        holder = Holder(f"10.2.{number // 200}.{number % 200 + 1}", 5000, number + 1)
        row = MemberRow(holder, f"b{number % brokers}", hears, {"plant/#": (f"g{number % 8}", None)})
        view.take([Change(row.key, row.value(), number + 1)])
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_broker.fleet.simulation", description=__doc__)
    parser.add_argument("--brokers", type=int, default=100)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--delay", type=float, default=0.01, help="seconds of a call to the store, at most")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    one = view_bytes(args.brokers, args.members)
    # In one process all know the same: what was read once is not read a hundred times.
    rows.member_in = lru_cache(maxsize=None)(rows.member_in.__wrapped__)
    began = time.process_time()
    loop = _Loop()
    try:
        told = loop.run_until_complete(play(args.brokers, args.members, args.changes, args.delay, args.seed))
    finally:
        loop.close()
    told["memory of one broker bytes"] = one
    told["processor s"] = round(time.process_time() - began, 1)
    told["process bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    json.dump(told, sys.stdout)
    print()


if __name__ == "__main__":
    main()
