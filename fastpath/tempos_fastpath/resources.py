"""What a fast path holds in the kernel, and how it comes to stand in the place of an earlier broker's.

Blocking.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tempos import InterfaceStatus, Unavailable
from tempos.errors import one_line
from tempos_fastpath.attach import Programs
from tempos_fastpath.drops import Drops
from tempos_fastpath.errors import NotPinned
from tempos_fastpath.fanouts import Fanouts
from tempos_fastpath.kernel_routes import KernelRoutes
from tempos_fastpath.network.entrances import Entrances
from tempos_fastpath.network.facts import Facts
from tempos_fastpath.network.survey import Survey
from tempos_fastpath.network.targets import served_now, wanted_now
from tempos_fastpath.rows import rows_in
from tempos_fastpath.survival.ownership import Ownership
from tempos_fastpath.survival.pins import Pins

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """What came from an earlier broker: topic -> epoch of its routes, topic -> row of those.

    And what counts losses, and what a status should add.
    """

    adopted: dict[int, int]
    rows: dict[int, int]
    drops: Drops | None
    note: str


@dataclass(frozen=True, slots=True)
class Resources:
    """What is loaded and attached, for what comes in where, and the ``threads`` that wait for the kernel."""

    survey: Survey
    programs: Programs
    routes: KernelRoutes
    fanouts: Fanouts
    ownership: Ownership
    pins: Pins
    entrances: Entrances
    #: The interfaces that the configuration names.
    names: tuple[str, ...]
    threads: ThreadPoolExecutor

    def take_over(self, facts: Facts) -> Taken:
        """Put everything in the place of an earlier broker's, which went on as if nobody had come."""
        self.programs.take_over(facts)
        self.ownership.tell(self.programs.interfaces)
        rows = rows_in(self.programs.map("rows"))
        adopted, remark = self._adopt(rows)
        drops, complaint = self._count_drops()
        return Taken(adopted, {topic: rows[topic] for topic in adopted}, drops, remark + complaint)

    def follow(self, facts: Facts) -> bool:
        """Take for ours what is now, and no more; attach where it came; whether anything changed."""
        served, _ = served_now(self.entrances.listen, facts)
        changed = served != self.programs.listen
        if changed:
            self.programs.relisten(served, facts)
        return self.programs.mend(facts, wanted_now(self.names, served, facts)) or changed

    def pin_late(self, drops: Drops | None) -> None:
        """Where there was no BPF file system at the start and is one now: outlive the broker from now on."""
        if not self.programs.pin_late():
            return
        # Its own loss is told nowhere, as at the start.
        with contextlib.suppress(NotPinned):
            if drops is not None:
                drops.pin(self.pins)
        _log.info("the fast path is pinned to %s now, and outlives the broker", self.pins.folder)

    def where_pinned(self) -> Pins | None:
        """Where what outlives this process is pinned; None: nothing does."""
        return self.pins if self.programs.pinned else None

    def unseen(self, facts: Facts) -> tuple[InterfaceStatus, ...]:
        """The interfaces by which events come in that no program sees, and why."""
        attachments = self.programs.attachments
        refused = {each.ifindex: each.reason for each in attachments if not each.link}
        return self.entrances.unseen(facts, self.programs.carrying, refused)

    def _adopt(self, rows: Mapping[int, int]) -> tuple[dict[int, int], str]:
        """Take up the routes of an earlier broker; with them unread, none may stay in force."""
        if not self.programs.adopted:
            return {}, ""
        try:
            return self.routes.adopt(rows), ""
        except Unavailable as error:
            self.routes.clear()
            reason = one_line(error)
            return {}, f"; the earlier broker's routes were taken out, for they cannot be read: {reason}"

    def _count_drops(self) -> tuple[Drops | None, str]:
        try:
            maps = {name: self.programs.map(name) for name in ("egress", "copies", "sending")}
            drops = Drops(self.ownership.identity, maps, self.where_pinned(), adopt=self.programs.adopted)
            drops.watch(self.programs.interfaces.values())
        except Unavailable as error:
            return None, f"; losses behind the redirect are not counted ({one_line(error)})"
        return drops, ""
