"""What brokers of a fleet share, as a small protocol: keys with values, leases, and an ordered watch.

Every change has a revision, which only grows. Keys are of one fleet; where they lie in a store is the
implementation's business. Rules: what a call was answered with is in force for all; a watch gives each change
once, in order, whole revisions at a time, or raises; it never ends by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from tempos import TemposError

#: Changes in one transaction at most.
AT_ONCE = 100


class Away(TemposError):
    """The store does not answer, or cannot say what holds: nothing is known of what was asked of it."""


class LeaseGone(TemposError):
    """A lease has ended, and all that hung on it is gone."""


class Compacted(TemposError):
    """The store does not have changes of so long ago any more: list again."""


class Entry(NamedTuple):
    """A value, and the revision that wrote it."""

    value: bytes
    revision: int


class Change(NamedTuple):
    """A key has another value since a revision; None: it is gone."""

    key: str
    value: bytes | None
    revision: int


class Write(NamedTuple):
    """Give a key a value, or take it away (None).

    ``expect``: only if it was written at this revision, 0: only if it is not there; None: in any case.
    """

    key: str
    value: bytes | None
    expect: int | None = None


class Written(NamedTuple):
    """The revision that holds what was written, and what was not: its key was another than was expected.

    ``at``: by key, the revision that wrote it, or from which on it is gone; of those that were not refused.
    """

    revision: int
    refused: Sequence[Write]
    at: Mapping[str, int]


class Listed(NamedTuple):
    """Everything there is as of a revision."""

    revision: int
    entries: Mapping[str, Entry]


class Registry(Protocol):
    """Raises :class:`Away` from every call."""

    async def grant(self, seconds: float) -> int:
        """A lease that ends unless it is kept alive; some stores take whole seconds, and 2 at least."""
        ...

    async def keep_alive(self, lease: int) -> float:
        """Seconds that it lasts from now on; raises :class:`LeaseGone`."""
        ...

    async def revoke(self, lease: int) -> None:
        """End a lease with all that hangs on it; one that has ended is no error."""
        ...

    async def write(self, writes: Sequence[Write], lease: int = 0, *, together: bool = False) -> Written:
        """Write keys, which hang on ``lease`` then (0: on none); raises :class:`LeaseGone`.

        ``together``: all of them, which are :data:`AT_ONCE` at most, or none, so that all are refused.
        """
        ...

    async def list(self) -> Listed:
        """Everything."""
        ...

    def watch(self, after: int) -> AsyncIterator[Sequence[Change]]:
        """Changes behind a revision as they come; empty ones tell that it is alive.

        Raises :class:`Compacted`, and :class:`Away` once it cannot go on.
        """
        ...

    async def close(self) -> None:
        """Let go of everything; leases end by themselves."""
        ...
