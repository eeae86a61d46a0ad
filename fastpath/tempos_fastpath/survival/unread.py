"""What an earlier broker left in the kernel, taken off by a broker that cannot read it: libbpf is missing.

Pins are files: with its pin a link ends, and the program it holds is taken off. What was counted there is
lost with it. Needs nothing that is compiled.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from tempos import Reason
from tempos_fastpath.errors import Owned
from tempos_fastpath.survival.ownership import ROOT, Identity, Ownership, current_namespace, is_something_left

log = logging.getLogger(__name__)


class Unread:
    """Implements the broker's ``Former``; made by :func:`find`."""

    #: Nobody can read them.
    tickets = None

    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self._folder = ROOT / ownership.identity.folder
        self._wound_up = False

    def adopted(self) -> Mapping[int, int]:
        return {}

    async def wind_up(self) -> None:
        """Remove every pin: the kernel takes the programs off a moment later."""
        try:
            for pin in self._folder.iterdir():
                pin.unlink()
            self._folder.rmdir()
        except OSError as error:
            log.warning("the fast path of an earlier broker cannot be taken off: %s", error)
        else:
            self._wound_up = True

    def counters(self) -> Mapping[int, Mapping[Reason, int]]:
        return {}

    def lost(self, topic: int, epoch: int, groups: int) -> Sequence[int]:
        return [0] * groups

    def close(self) -> None:
        """Let go of it; safe to call twice."""
        if self._wound_up:
            self._ownership.tell({})
        self._ownership.close()


def find(name: str) -> Unread | None:
    """What a broker of this name left in this network namespace; None if nothing, or if that one lives."""
    if not is_something_left(name):
        return None
    try:
        return Unread(Ownership(Identity(name, current_namespace())))
    except Owned:
        return None
