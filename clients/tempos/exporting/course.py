"""How far a journal was read, page by page, and what of it was gone before: no I/O in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tempos.cli.tap import payload_of, row_of


@dataclass(frozen=True, slots=True)
class Place:
    """All of a journal up to this position has been dealt with."""

    journal: str
    position: int


@dataclass(frozen=True, slots=True)
class Record:
    """An event. ``missed`` are gone that came right before it; ``at_least``: they may be more."""

    place: Place
    row: Mapping[str, Any]
    payload: bytes | None
    framing: str
    missed: int
    at_least: bool

    @property
    def key(self) -> str:
        """Names the datagram wherever it turns up."""
        return f"{self.place.journal}.{self.place.position}"


@dataclass(slots=True)
class Course:
    """What was read and is dealt with; ``at`` is None before anything was."""

    at: Place | None = None
    #: Since this began: events, events that were gone, and times when nobody knows how many those were.
    read: int = 0
    missed: int = 0
    unknown: int = 0
    #: The journal is another one than before: what is left of it is read from its beginning.
    _anew: bool = field(default=False, init=False)

    @property
    def after(self) -> int:
        """The position to ask behind."""
        return 0 if self.at is None or self._anew else self.at.position

    def records(self, page: Mapping[str, Any]) -> list[Record] | None:
        """What a page has; None: it is of another journal than the place, so ask again.

        Raises :class:`KeyError` and others where the page is not of this version.
        """
        journal = str(page["journal"])
        if self.at is not None and journal != self.at.journal and not self._anew:
            self._anew = True
            return None
        found: list[Record] = []
        for event in page["events"]:
            found.append(
                Record(
                    place=Place(journal, int(event["position"])),
                    row=row_of(event, page, payload := payload_of(event)),
                    payload=payload,
                    framing=str(page["framing"]),
                    missed=int(event["missed"]),
                    at_least=bool(event["at_least"]) or (self._anew and not found),
                )
            )
        return found

    def done(self, records: list[Record]) -> None:
        """They are kept where they belong."""
        if records:
            self.at, self._anew = records[-1].place, False
        self.read += len(records)
        self.missed += sum(each.missed for each in records)
        self.unknown += sum(each.at_least for each in records)
