"""Looks after the members of all routes: leaves out those that cannot be reached, and takes them in again.

Rules: whoever is left out is told by name, once, and once when it is back; what waits in the kernel for
neighbours that are not known yet gets room of its own in the sockets, so that nobody else waits for it. What
is asked of the kernel is asked in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from tempos._awaitables import Bell, until_next
from tempos._remarks import Remark
from tempos.errors import one_line
from tempos_broker.account.changes import Changes, Kind
from tempos_broker.addresses import Towards
from tempos_broker.members.presence import Hop, Presence, State
from tempos_broker.paths import FastPath
from tempos_broker.routes import Routes
from tempos_broker.worker.slowpaths import SlowPaths

#: Seconds between two looks; between two of them at least, whatever happens; after which ways are asked anew.
EVERY, APART, WAYS_AGAIN = 0.5, 0.02, 5.0
#: Bytes that may wait in the kernel for one neighbour (net.ipv4.neigh.default.unres_qlen_bytes).
WAITS = 212_992
#: Neighbours for which there is room at the most.
ROOMS = 64
#: Nothing is there; a datagram to it has the kernel find out who is next (discard, RFC 863).
_DISCARD = 9

log = logging.getLogger("tempos.broker.members")


class Neighbours(Protocol):
    """What is asked of the kernel; each may raise :class:`OSError`, but for :meth:`close`."""

    def stirred(self) -> bool:
        """Whether any neighbour may be known no more since this was asked; on the event loop."""
        ...

    def close(self) -> None:
        """Ask no more; safe to call twice."""
        ...

    def ways(self, towards: Sequence[Towards]) -> Mapping[Towards, tuple[int, str] | str]:
        """Who is next on the way to each, where there is one; or why there is no way at all, in words."""
        ...

    def unresolved(
        self, places: Collection[tuple[int, str]]
    ) -> tuple[set[tuple[int, str]], set[tuple[int, str]], set[tuple[int, str]]]:
        """Of these: those that are known, those that are being resolved, those that could not be."""
        ...

    def ask(self, places: Collection[tuple[int, str]]) -> bool:
        """Have the kernel find out who these are; False: this process may not."""
        ...


class Watch:
    """``routes``: what is in force; ``renew``: has every route installed anew."""

    def __init__(
        self,
        neighbours: Neighbours | None,
        routes: Routes,
        slow: SlowPaths,
        fast: FastPath,
        renew: Callable[[], None],
        changes: Changes | None = None,
    ) -> None:
        self._log = (Changes() if changes is None else changes).of(Kind.REACH, log)
        self._neighbours = neighbours
        self._routes = routes
        self._slow = slow
        self._fast = fast
        self._renew = renew
        self._presence = Presence()
        self._ways: dict[Towards, Hop] = {}
        #: Of those that no way leads to: why, at the last look.
        self._refused: dict[Towards, str] = {}
        self._asked = -math.inf
        self._full = False
        #: Members of which everyone next on the way was known at the last look.
        self._settled: set[Towards] | None = None
        self._woken = Bell()
        self._room = 0
        self._trouble = Remark(log, "who is next on the way to members is asked of the kernel again")
        self._told: frozenset[Towards] = frozenset()
        self._task: asyncio.Task[None] | None = None
        #: Where members are that are in no route now, and are looked for nevertheless.
        self.also: Callable[[], frozenset[Towards]] = frozenset

    @property
    def absent(self) -> frozenset[Towards]:
        """Where members are that are left out."""
        return self._presence.absent

    def begin(self) -> None:
        """Look from now on; on the event loop."""
        if self._neighbours is not None:
            self._slow.make_room(0, self._on_full)
            self._task = asyncio.get_running_loop().create_task(self._run(), name="watch members")

    async def close(self) -> None:
        """Look no more; safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._neighbours is not None:
            self._neighbours.close()

    def why(self, towards: Towards) -> str:
        """Why a member there is left out; empty where it is not."""
        if towards not in self._presence.absent:
            return ""
        if towards in self._refused:
            return self._refused[towards]
        hop = self._presence.hop(towards)
        via = "it" if hop is None or hop.ip == towards[0] else f"its gateway {hop.ip}"
        return f"{via} does not answer: the kernel finds no MAC address"

    def look_anew(self) -> None:
        """Ways may have changed; on the event loop."""
        self._asked = -math.inf
        self._woken.set()

    def _on_full(self) -> None:
        self._full = True
        self._woken.set()

    async def _run(self) -> None:
        looked = -math.inf
        while True:
            if await self._woken.wait(until_next(EVERY)):
                await asyncio.sleep(max(0.0, looked + APART - time.monotonic()))
            self._woken.clear()
            full, self._full = self._full, False
            try:
                await self._look(full)
                self._trouble.gone()
            except OSError as error:
                self._trouble(
                    f"who is next on the way to members cannot be asked of the kernel: {one_line(error)}"
                )
            except Exception as error:  # noqa: BLE001 - logged in full; it must not end the watch
                self._settled = None
                self._trouble(f"members could not be looked after: {one_line(error)}", trace=True)
            looked = time.monotonic()

    async def _look(self, full: bool) -> None:
        assert self._neighbours is not None, "else nothing looks"
        members = {*self._routes.towards, *self.also()}
        if members or self._presence.absent:
            now = time.monotonic()
            # Asked before the look: what changes while it is taken shows at the next one.
            rests = not self._neighbours.stirred() and members == self._settled
            if rests and not full and now - self._asked < WAYS_AGAIN:
                return
            self._settled = None
            states, ways, self._refused = await asyncio.to_thread(self._read, members, now)
            changed = self._presence.look(ways, states, now, full=full, nowhere=self._refused.keys())
            self._make_room()
            if changed:
                await self._leave_out()
            # Of one without a way, or an entry, the kernel says nothing when packets begin to wait for it.
            if len(ways) == len(members) and all(states.get(hop) is State.KNOWN for hop in ways.values()):
                self._settled = members
            if due := self._presence.to_ask(states, now):
                await asyncio.to_thread(self._ask, due)

    def _read(
        self, members: set[Towards], now: float
    ) -> tuple[dict[Hop, State], dict[Towards, Hop], dict[Towards, str]]:
        assert self._neighbours is not None, "else nothing looks"
        if now - self._asked >= WAYS_AGAIN:
            self._asked, self._ways = now, {}
        for gone in self._ways.keys() - members:
            del self._ways[gone]
        refused: dict[Towards, str] = {}
        if lacking := [each for each in members if each not in self._ways]:
            for each, place in self._neighbours.ways(lacking).items():
                if isinstance(place, str):
                    refused[each] = place
                else:
                    self._ways[each] = Hop(*place)
        known, resolving, failed = self._neighbours.unresolved(set(self._ways.values()))
        states = {
            Hop(*place): state
            for places, state in ((known, State.KNOWN), (resolving, State.RESOLVING), (failed, State.FAILED))
            for place in places
        }
        return states, dict(self._ways), refused

    def _make_room(self) -> None:
        room = min(self._presence.unresolved, ROOMS) * WAITS
        if room != self._room:
            self._room = room
            self._slow.make_room(room, self._on_full)

    async def _leave_out(self) -> None:
        before, now = self._told, self._presence.absent
        self._tell(before, now)
        self._told = now
        self._fast.leave_out(now)
        await self._slow.leave_out(now)
        self._renew()

    def _tell(self, before: frozenset[Towards], now: frozenset[Towards]) -> None:
        changed = before ^ now
        for state in self._routes.states.values():
            for group in state.route.groups:
                for member in group.members:
                    towards = (member.ip, member.source)
                    if towards not in changed:
                        continue
                    if towards in now:
                        self._log.warning(
                            "member %s:%d of topic %s (group %s) is left out: %s; what it is ticketed until "
                            "then is lost to it, and counted",
                            member.ip, member.port, state.route.topic.name, group.name, self.why(towards),
                        )  # fmt: skip
                    else:
                        self._log.warning(
                            "member %s:%d of topic %s (group %s) can be reached again",
                            member.ip, member.port, state.route.topic.name, group.name,
                        )  # fmt: skip

    def _ask(self, hops: Sequence[Hop]) -> None:
        assert self._neighbours is not None, "else nothing looks"
        if self._neighbours.ask(hops):
            return
        # Without the privilege a datagram that nobody listens for does the same.
        for ip, source in self._presence.behind(hops):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
                probe.setblocking(False)
                probe.bind((source or "", 0))
                probe.sendto(b"", (ip, _DISCARD))
