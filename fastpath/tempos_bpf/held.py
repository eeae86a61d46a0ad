"""Loaded objects by the settings that their programs go by: those in use, and the last few that were.

A network that changes often changes back, and the verifier looks at a program for up to half a second.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from tempos_bpf.objects import BpfObject

#: Objects that stay though nothing goes by them.
SPARE = 4


class Held:
    """Not for several threads at a time."""

    def __init__(self) -> None:
        self._objects: dict[bytes, BpfObject] = {}

    def get(self, settings: bytes) -> BpfObject | None:
        """The one with these settings, if it is there; it was used last then."""
        found = self._objects.pop(settings, None)
        if found is not None:
            self._objects[settings] = found
        return found

    def put(self, settings: bytes, loaded: BpfObject) -> None:
        """Hold one more."""
        self._objects[settings] = loaded

    def keep(self, used: Collection[bytes]) -> None:
        """Let go of those with other settings, but for the last ones."""
        unused = [each for each in self._objects if each not in used]
        for settings in unused[:-SPARE]:
            self._objects.pop(settings).close()

    def close(self) -> None:
        """Let go of all; safe to call twice."""
        with contextlib.ExitStack() as stack:
            for each in self._objects.values():
                stack.callback(each.close)
        self._objects.clear()
