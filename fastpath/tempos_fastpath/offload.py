"""The fast path as the broker sees it: hands topics to the kernel, keeps them true, takes them back.

Rules: nothing here blocks the event loop (netlink and map updates run in threads); the kernel holds a
route only while every member's way and MAC are known; when a fact that some route rests on changes,
the broker is told to install again, and nothing else happens behind its back. Whatever the network does
becomes a reason in words, never an exception.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tempos import FastPathStatus, LocalError, Path, PathChoice, Reason, Route, Unavailable, _abi
from tempos_fastpath.attach import Programs, one_line
from tempos_fastpath.changes import ChangeTrigger
from tempos_fastpath.errors import BpfError
from tempos_fastpath.facts import Facts, Interface
from tempos_fastpath.layout import ROUTE_SIZE, decode_counters, encode_route
from tempos_fastpath.maps import Map, MapType, create_map
from tempos_fastpath.network import read_facts, resolve_neighbours
from tempos_fastpath.plan import Plan, Refusal, plan_route, refuse_at_once
from tempos_fastpath.tickets import SharedTickets

MODES = ("auto", "native", "generic")
ANY = "0.0.0.0"  # noqa: S104 - the configuration's word for every local address
#: Threads that wait for the kernel: several topics' RCU grace periods pass at the same time.
_THREADS = 8
#: Seconds between two looks at the network without an event, each of which also has the kernel confirm
#: the neighbours in use: redirected frames do not pass its own stack, so nothing else keeps them fresh.
_REFRESH = 5.0
#: Seconds from one look to the next, however busy the neighbour table is.
_SPACING = 0.2

T = TypeVar("T")
_log = logging.getLogger(__name__)


async def start(*, listen: Sequence[str], port: int, mode: str, interfaces: Sequence[str]) -> Offload:
    """Load, attach and serve.

    ``listen``: IPv4 addresses; ``0.0.0.0`` stands for every one of this machine, at most
    ``tempos._abi.MAX_LISTEN``. ``mode``: auto, native or generic. ``interfaces``: names, or empty for
    those that carry a listen address. Raises :class:`tempos.Unavailable` with a reason per interface if
    it could attach to none, and leaves nothing behind then.
    """
    if mode not in MODES:
        raise LocalError(f"fast path mode {mode!r} is not one of {', '.join(MODES)}")
    threads = ThreadPoolExecutor(_THREADS, "tempos-fastpath")
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as undo:
        undo.callback(threads.shutdown, wait=False)
        facts = await loop.run_in_executor(threads, read_facts)
        addresses, note = _listen_addresses(listen, facts)
        programs = Programs(addresses, port)
        undo.callback(programs.close)
        # Before that: a thread that is still attaching must come to its end.
        undo.callback(threads.shutdown, wait=True)
        targets = _targets(interfaces, addresses, facts)
        await loop.run_in_executor(threads, programs.attach, targets, mode)
        offload = Offload(programs, facts, threads, note)
        undo.pop_all()
    return offload


class Offload:
    """Implements the broker's ``FastPath``; made by :func:`start`."""

    def __init__(self, programs: Programs, facts: Facts, threads: ThreadPoolExecutor, note: str) -> None:
        self._programs = programs
        self._facts = facts
        self._threads = threads
        self._note = note
        self._loop = asyncio.get_running_loop()
        self._tickets = SharedTickets(programs.map("tickets").mmap())
        self._callbacks: list[Callable[[], None]] = []
        self._wanted: dict[int, Route] = {}
        self._plans: dict[int, tuple[Route, Plan | Refusal]] = {}
        self._in_kernel: set[int] = set()
        self._slots: dict[int, int] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._reading = asyncio.Lock()
        self._closed = False
        self._changed = asyncio.Event()
        self._trigger = ChangeTrigger(self._changed.set)
        self._watcher = asyncio.create_task(self._watch(), name="tempos-fastpath-watch")

    @property
    def tickets(self) -> SharedTickets:
        return self._tickets

    def status(self) -> FastPathStatus:
        """The weakest mode of the interfaces that carry the program, and how each came to its own."""
        if self._closed:
            return FastPathStatus("none", "the fast path is closed")
        present = self._facts.interfaces.keys()
        interfaces = tuple(each.status(present) for each in self._programs.attachments)
        modes = [each.mode for each in interfaces if each.mode != "none"]
        if not modes:
            return FastPathStatus("none", "no interface is left", interfaces)
        reason = ", ".join(f"{each.name}: {each.mode} ({each.reason})" for each in interfaces)
        mode = "generic" if "generic" in modes else "native"
        return FastPathStatus(mode, f"{reason}{self._note}", interfaces)

    async def install(self, route: Route) -> PathChoice:
        """Make ``route`` the kernel's route of its topic, or remove it where the kernel cannot carry it."""
        topic = route.topic.id
        async with self._locks.setdefault(topic, asyncio.Lock()):
            if self._closed:
                return PathChoice(Path.SLOW, "the fast path is closed")
            self._wanted[topic] = route
            facts, plan = await self._plan(route)
            if isinstance(plan, Plan):
                plan = await self._put(plan)
            self._plans[topic] = (route, plan)
            if isinstance(plan, Refusal):
                await self._take_out(topic)
                await self._resolve(plan.unresolved)
            if facts is not self._facts:
                self._changed.set()
        if isinstance(plan, Refusal):
            return PathChoice(Path.SLOW, plan.reason)
        names = {self._facts.interfaces[index].name for index in _egresses(plan)
                 if index in self._facts.interfaces}  # fmt: skip
        return PathChoice(Path.FAST, f"XDP {self.status().mode}, leaves by {', '.join(sorted(names))}")

    async def withdraw(self, topic: int) -> None:
        """Take the topic's route out of the kernel; its packets come up to the slow path."""
        async with self._locks.setdefault(topic, asyncio.Lock()):
            self._wanted.pop(topic, None)
            self._plans.pop(topic, None)
            if not self._closed:
                await self._take_out(topic)

    def counters(self) -> Mapping[int, Mapping[Reason, int]]:
        """Datagrams by topic and reason since the start, where not 0; row 0 had no topic yet."""
        if self._closed:
            return {}
        return decode_counters(self._programs.map("counters").sum_rows())

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the event loop when facts that a wanted route rests on changed."""
        self._callbacks.append(callback)

    async def close(self) -> None:
        """Detach and release everything; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        with contextlib.ExitStack() as stack:
            stack.callback(self._threads.shutdown, wait=False)
            stack.callback(self._programs.close)
            stack.callback(self._tickets.close)
            stack.callback(self._trigger.close)
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
            for lock in self._locks.values():
                async with lock:  # an update under way still needs the maps
                    pass

    # ---- planning ---------------------------------------------------------------------------------

    async def _plan(self, route: Route) -> tuple[Facts, Plan | Refusal]:
        """The plan by the facts at hand, or by new ones if they lack a destination."""
        refusal = refuse_at_once(route)
        if refusal is not None:
            return self._facts, refusal
        if any(member.ip not in self._facts.ways for member in route.groups[0].members):
            try:
                await self._look()
            except Unavailable as error:
                return self._facts, Refusal(one_line(error))
        facts = self._facts
        return facts, plan_route(route, facts, native=self._programs.native)

    async def _look(self) -> None:
        """Read the facts anew, for every destination of a wanted route."""
        async with self._reading:
            destinations = {
                member.ip
                for route in self._wanted.values()
                if refuse_at_once(route) is None
                for member in route.groups[0].members
            }
            self._facts = await self._in_thread(read_facts, destinations)

    async def _watch(self) -> None:
        """Look again after every change and every now and then; tell the broker if a plan differs."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _REFRESH)
            event = self._changed.is_set()
            self._changed.clear()
            try:
                if not event:
                    await self._resolve(self._neighbours_in_use())
                await self._look()
                self._compare()
            except Unavailable as error:
                _log.warning("the fast path's routes stay as they are until the next look: %s", error)
            except Exception:  # noqa: BLE001 - logged in full; it must not end the watch
                # Whatever it was, a fast path that stops looking would forward to nowhere.
                _log.exception("the fast path could not check its routes against the network")
            await asyncio.sleep(_SPACING)

    def _compare(self) -> None:
        native = self._programs.native
        for route, plan in self._plans.values():
            if plan_route(route, self._facts, native=native) != plan:
                for callback in self._callbacks:
                    callback()
                return

    def _neighbours_in_use(self) -> set[tuple[int, str]]:
        used: set[tuple[int, str]] = set()
        ways = self._facts.ways
        for route, plan in self._plans.values():
            if isinstance(plan, Refusal):
                used.update(plan.unresolved)
                continue
            for member, hop in zip(route.groups[0].members, plan.hops, strict=True):
                if member.mac is None and hop.ip in ways:
                    used.add((hop.ifindex, ways[hop.ip].next_hop))
        return used

    async def _resolve(self, neighbours: Iterable[tuple[int, str]]) -> None:
        # What cannot be resolved stays refused, and the refusal's reason already says so.
        with contextlib.suppress(Unavailable):
            await self._in_thread(resolve_neighbours, tuple(neighbours))

    # ---- the kernel's side ------------------------------------------------------------------------

    async def _put(self, plan: Plan) -> Plan | Refusal:
        """Swap the route in; returns when no packet uses an older one."""
        slots = self._take_slots(plan)
        if slots is None:
            return Refusal(f"more than {_abi.MAX_EGRESS} interfaces towards members")
        try:
            await self._in_thread(self._write, plan, slots)
        except BpfError as error:
            return Refusal(f"the kernel refused the route: {one_line(error)}")
        self._in_kernel.add(plan.topic)
        return plan

    def _write(self, plan: Plan, slots: Mapping[int, int]) -> None:
        egress = self._programs.map("egress")
        for ifindex, slot in slots.items():
            egress.update(slot, ifindex.to_bytes(4, sys.byteorder))
        with _route_map() as inner:
            inner.update(0, encode_route(plan, slots))
            self._programs.map("routes").update(plan.topic, inner)

    async def _take_out(self, topic: int) -> None:
        if topic in self._in_kernel:
            await self._in_thread(self._programs.map("routes").delete, topic)
            self._in_kernel.discard(topic)

    def _take_slots(self, plan: Plan) -> dict[int, int] | None:
        """The egress slot of each interface of the plan; those no route uses any more are reused."""
        needed = _egresses(plan)
        if len(needed - self._slots.keys()) > _abi.MAX_EGRESS - len(self._slots):
            plans = (each for _, each in self._plans.values() if isinstance(each, Plan))
            used = needed.union(*map(_egresses, plans))
            self._slots = {index: slot for index, slot in self._slots.items() if index in used}
        free = [slot for slot in range(_abi.MAX_EGRESS) if slot not in self._slots.values()]
        for index in sorted(needed - self._slots.keys()):
            if not free:
                return None
            self._slots[index] = free.pop(0)
        return {index: self._slots[index] for index in needed}

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await self._loop.run_in_executor(self._threads, function, *arguments)


def _route_map() -> Map:
    return create_map("route", MapType.ARRAY, key_size=4, value_size=ROUTE_SIZE, max_entries=1)


def _egresses(plan: Plan) -> set[int]:
    return {hop.ifindex for hop in plan.hops}


def _listen_addresses(listen: Sequence[str], facts: Facts) -> tuple[tuple[str, ...], str]:
    """The addresses to serve, and a note for the status if there are more than the program takes."""
    wanted = facts.local_addresses() if ANY in listen else tuple(dict.fromkeys(listen))
    served = wanted[: _abi.MAX_LISTEN]
    if not served:
        raise Unavailable("no Ethernet interface has an IPv4 address to serve")
    if len(wanted) == len(served):
        return served, ""
    rest = ", ".join(wanted[_abi.MAX_LISTEN :])
    return served, f"; the slow path serves {rest}, for the program takes {_abi.MAX_LISTEN} addresses"


def _targets(names: Sequence[str], listen: Sequence[str], facts: Facts) -> list[Interface | str]:
    if names:
        return [facts.by_name(name) or name for name in dict.fromkeys(names)]
    found = facts.carriers(listen)
    if not found:
        raise Unavailable(f"no Ethernet interface carries {', '.join(listen)}")
    return list(found)
