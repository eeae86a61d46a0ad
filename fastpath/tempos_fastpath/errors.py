"""What can stand between this machine and the fast path beside what `tempos_bpf.errors` has.

All are :class:`tempos.Unavailable`: the broker then serves by the slow path and shows the text.
"""

from __future__ import annotations

from tempos import Unavailable


class NetworkUnreadable(Unavailable):
    """The kernel did not answer a question about interfaces, routes or neighbours."""


class Owned(Unavailable):
    """Another broker's fast path, living or dead, holds the name or the interface."""


class NotPinned(Unavailable):
    """There is nowhere to pin to: the fast path cannot outlive the broker."""
