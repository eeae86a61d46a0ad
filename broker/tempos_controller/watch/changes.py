"""The last changes of a platform, in the log's own words, kept in memory for whoever looks."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter

#: Changes that are kept, and characters of one.
KEPT, LONGEST = 100, 1000


@dataclass(frozen=True, slots=True)
class Change:
    """``at``: Unix seconds; ``kind``: what it is about, in a word or two."""

    number: int
    at: float
    kind: str
    level: int
    text: str

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        at = datetime.fromtimestamp(self.at, timezone.utc).isoformat(timespec="milliseconds")
        severity = "warning" if self.level >= logging.WARNING else "info"
        return {"number": self.number, "at": at, "kind": self.kind, "severity": severity, "text": self.text}


class Changes:
    """Numbered, the oldest first; each new one has the next number."""

    def __init__(self) -> None:
        self._kept: deque[Change] = deque(maxlen=KEPT)
        #: The number of the last one.
        self.last = 0

    def of(self, kind: str, logger: logging.Logger) -> Teller:
        """A logger whose words are changes of this kind."""
        return Teller(self, kind, logger)

    def note(self, kind: str, level: int, text: str) -> None:
        """Keep one that is logged by others."""
        self.last += 1
        self._kept.append(Change(self.last, time.time(), kind, level, text[:LONGEST]))

    def since(self, number: int = 0) -> Iterator[Change]:
        """Those after the one of this number."""
        return (each for each in list(self._kept) if each.number > number)


class Teller(_Adapter):
    """A logger; what it is told is kept as well, whatever the level of the log is."""

    def __init__(self, changes: Changes, kind: str, logger: logging.Logger) -> None:
        super().__init__(logger, {})
        self._changes = changes
        self._kind = kind

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, {**kwargs, "extra": {"change": self._kind}}

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        self._changes.note(self._kind, level, str(msg) % args if args else str(msg))
        super().log(level, msg, *args, **kwargs)
