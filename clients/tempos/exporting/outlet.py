"""What an export needs of where it writes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tempos.errors import LocalError
from tempos.exporting.course import Place, Record


class Away(LocalError):
    """It is not there at the moment, or does not take anything: the same again may go well later."""


class Outlet(Protocol):
    """Keeps records, and how far it has come."""

    async def open(self) -> Place | None:
        """Begin; where it has come to, None: nowhere. Raises :class:`LocalError`."""
        ...

    async def put(self, records: Sequence[Record]) -> None:
        """Keep these, and that they are kept, in whole; raises :class:`LocalError` where it cannot."""
        ...

    async def close(self) -> None:
        """Let go; safe to call twice."""
        ...
