"""What an earlier broker left in the kernel, taken off by a broker that cannot read it: libbpf is missing.

Pins are files: with its pin a link ends, and the program it holds is taken off. What was counted there is
lost with it. Needs nothing that is compiled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tempos import Reason
from tempos_fastpath.errors import Owned
from tempos_fastpath.network.netlink import Netlink
from tempos_fastpath.survival.ownership import (
    ROOT,
    Identity,
    Ownership,
    current_namespace,
    is_something_left,
    owners,
)

if TYPE_CHECKING:
    from tempos_fastpath.survival.pins import Held

#: Seconds that the kernel may take to let go of what nothing holds any more, and between two looks at that.
PATIENCE, LOOK = 5.0, 0.01

log = logging.getLogger(__name__)


class Unread:
    """Implements the broker's ``Former``; made by :func:`find`."""

    #: Nobody can read them.
    tickets = None

    def __init__(self, ownership: Ownership, held: Held | None, interfaces: Mapping[str, int]) -> None:
        """``interfaces``: those that its programs are on, by what it wrote down: name -> index."""
        self._interfaces = interfaces
        self._ownership = ownership
        self._held = held
        self._folder = ROOT / ownership.identity.folder if held is None else held.folder
        self._wound_up = False

    def adopted(self) -> Mapping[int, int]:
        return {}

    async def wind_up(self) -> None:
        """Remove every pin; when this returns the kernel has taken the programs off, or it is told."""
        try:
            before = self._programs()
            for pin in self._folder.iterdir():
                pin.unlink()
            if self._held is None:
                self._folder.rmdir()
            else:
                with contextlib.suppress(OSError):
                    self._held.remove()
        except OSError as error:
            log.warning("the fast path of an earlier broker cannot be taken off: %s", error)
        else:
            self._wound_up = True
            await self._taken_off(before)

    async def _taken_off(self, before: set[tuple[int, int]]) -> None:
        """A link ends once nobody looks at it any more, which whoever lists links does for a moment."""
        end = time.monotonic() + PATIENCE
        while left := {index for index, _ in before & self._programs()}:
            if time.monotonic() >= end:
                names = ", ".join(name for name, index in self._interfaces.items() if index in left)
                log.warning("the fast path of an earlier broker is still on %s: somebody else holds it, and "
                            "events go by its routes", names)  # fmt: skip
                return
            await asyncio.sleep(LOOK)

    def _programs(self) -> set[tuple[int, int]]:
        with Netlink() as netlink:
            wanted = set(self._interfaces.values())
            return {each for each in netlink.xdp_programs() if each[0] in wanted}

    def counters(self) -> Mapping[int, Mapping[Reason, int]]:
        return {}

    def lost(self, topic: int, epoch: int, groups: int) -> Sequence[int]:
        return [0] * groups

    def close(self) -> None:
        """Let go of it; safe to call twice."""
        if self._wound_up:
            self._ownership.tell({})
        self._ownership.close()


def find(name: str, held: Held | None = None) -> Unread | None:
    """What a broker of this name left in this network namespace; None if nothing, or if that one lives.

    ``held``: by which it is reached, where this user may not go there.
    """
    if not is_something_left(name, held.folder if held is not None else None):
        return None
    identity = Identity(name, current_namespace())
    # Before the lock is had: its file then says who has it.
    interfaces = {
        one: index for each in owners() if each.identity == identity for one, index in each.interfaces.items()
    }
    try:
        return Unread(Ownership(identity), held, interfaces)
    except Owned:
        return None
