"""What an earlier broker left in the kernel, taken off by a broker that cannot read it: libbpf is missing.

Pins are files: with its pin a link ends, and the program it holds is taken off. What was counted there is
lost with it. Needs nothing that is compiled.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tempos import Reason
from tempos_fastpath.errors import Owned
from tempos_fastpath.survival.ownership import ROOT, Identity, Ownership, current_namespace, is_something_left

if TYPE_CHECKING:
    from tempos_fastpath.survival.pins import Held

log = logging.getLogger(__name__)


class Unread:
    """Implements the broker's ``Former``; made by :func:`find`."""

    #: Nobody can read them.
    tickets = None

    def __init__(self, ownership: Ownership, held: Held | None) -> None:
        self._ownership = ownership
        self._held = held
        self._folder = ROOT / ownership.identity.folder if held is None else held.folder
        self._wound_up = False

    def adopted(self) -> Mapping[int, int]:
        return {}

    async def wind_up(self) -> None:
        """Remove every pin: the kernel takes the programs off a moment later."""
        try:
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
    try:
        return Unread(Ownership(Identity(name, current_namespace())), held)
    except Owned:
        return None
