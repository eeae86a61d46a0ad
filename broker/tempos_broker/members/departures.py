"""Why members are in a topic no more, and who is kept out.

Sans-IO: time is an argument (monotonic seconds). Rules: why a member went is remembered for a while, so that
it can be told, and of so many as there is room for; who is kept out, by an operator or because no event
reached it, stays out, under that endpoint, until it is let in or until the time that was given, whatever the
topic's id and whichever life of the broker.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tempos.control import Out
from tempos_broker.account.accounts import Holder

#: Seconds for which it is remembered why a member went, and of how many members.
REMEMBERED, NOTED = 120.0, 4096
#: Members that may be kept out at a time.
KEPT_OUT = 1024


class Place(NamedTuple):
    """A place in a group, by the topic's name."""

    topic: str
    group: str
    ip: str
    port: int

    def __str__(self) -> str:
        return f"{self.ip}:{self.port} out of group {self.group!r} of {self.topic!r}"


@dataclass(frozen=True, slots=True)
class KeptOut:
    """Until when a place stays empty: monotonic seconds, and the wall clock's then; None: until let in.

    ``why``: :attr:`Out.KEPT_OUT`, by an operator, or :attr:`Out.UNHEARD`.
    """

    place: Place
    until: float | None
    wall: float | None
    why: str = Out.KEPT_OUT

    def __str__(self) -> str:
        if self.why == Out.UNHEARD:
            return (
                f"{Out.WORDS[Out.UNHEARD]}, which keeps {self.place} {self.when}: is there a firewall or a "
                "NAT between that lets nothing from the broker's data port through?"
            )
        return f"an operator keeps {self.place} {self.when}"

    @property
    def when(self) -> str:
        """The end, for people; the same words whenever it is asked."""
        if self.wall is None:
            return "until let in"
        return time.strftime("until %Y-%m-%d %H:%M:%S UTC", time.gmtime(self.wall))


class Departures:
    """What the registry notes of those that went."""

    def __init__(self) -> None:
        # In the order in which they went.
        self._noted: dict[tuple[int, Holder], tuple[str, float]] = {}
        # Why the last one went that was there, by topic and endpoint.
        self._at: dict[tuple[int, str, int], str] = {}
        self._kept_out: dict[Place, KeptOut] = {}
        # The groups of a topic that an endpoint is kept out of.
        self._groups: dict[tuple[str, str, int], dict[str, None]] = {}

    # --- why --------------------------------------------------------------------------------

    def note(self, topic: int, holder: Holder, why: str, now: float) -> None:
        """A member went out of a topic."""
        self._noted.pop((topic, holder), None)
        self._noted[topic, holder] = why, now
        self._at[topic, holder.ip, holder.port] = why
        self.tidy(now)

    def came(self, topic: int, holder: Holder) -> None:
        """It is a member again."""
        self._noted.pop((topic, holder), None)
        self._at.pop((topic, holder.ip, holder.port), None)

    def why_at(self, topic: int, name: str, ip: str, port: int) -> str:
        """Why the last one went that was there; empty: it wanted to, or that is not remembered."""
        # That it is kept out stands by the topic's name, for as long as it is.
        return Out.KEPT_OUT if self._groups.get((name, ip, port)) else self._at.get((topic, ip, port), "")

    def why(self, topic: int, name: str, holder: Holder, now: float) -> str | None:
        """Why a member is in a topic no more (:class:`tempos.control.Out`), if that is remembered.

        That it is kept out is told for as long as it is, whatever it went for.
        """
        for group in self._groups.get((name, holder.ip, holder.port), ()):
            if (kept := self.kept_out(Place(name, group, holder.ip, holder.port), now)) is not None:
                return kept.why
        return self._noted.get((topic, holder), (None, 0.0))[0]

    def whys(self, holder: Holder) -> list[str]:
        """All reasons for which it went, each once."""
        return list(dict.fromkeys(why for (_, each), (why, _) in self._noted.items() if each == holder))

    def tidy(self, now: float) -> None:
        """Forget what is old, or too much."""
        for key, (_, at) in list(self._noted.items()):
            if at > now - REMEMBERED and len(self._noted) <= NOTED:
                break
            del self._noted[key]
            self._at.pop((key[0], key[1].ip, key[1].port), None)
        for place, kept in list(self._kept_out.items()):
            if kept.until is not None and kept.until <= now:
                self._drop(place)

    # --- kept out ---------------------------------------------------------------------------

    def is_full(self, place: Place) -> bool:
        """Whether there is no room to keep one more out."""
        return place not in self._kept_out and len(self._kept_out) >= KEPT_OUT

    def keep_out(
        self, place: Place, now: float, wall: float, seconds: float | None, why: str = Out.KEPT_OUT
    ) -> KeptOut:
        """Let nobody be a member there for so many seconds; None: until :meth:`let_in`."""
        until, end = (None, None) if seconds is None else (now + seconds, wall + seconds)
        kept = self._kept_out[place] = KeptOut(place, until, end, why)
        self._groups.setdefault((place.topic, place.ip, place.port), {})[place.group] = None
        return kept

    def let_in(self, place: Place, now: float) -> bool:
        """Whether it was kept out; it is no more."""
        was = self.kept_out(place, now) is not None
        self._drop(place)
        return was

    def _drop(self, place: Place) -> None:
        if self._kept_out.pop(place, None) is not None:
            endpoint = place.topic, place.ip, place.port
            del self._groups[endpoint][place.group]
            if not self._groups[endpoint]:
                del self._groups[endpoint]

    def kept_out(self, place: Place, now: float) -> KeptOut | None:
        """Until when this place stays empty; None: it need not."""
        kept = self._kept_out.get(place)
        return kept if kept is not None and (kept.until is None or kept.until > now) else None

    def all_kept_out(self, now: float) -> Iterator[KeptOut]:
        """All of them, in the order in which they were taken out."""
        return (kept for kept in self._kept_out.values() if kept.until is None or kept.until > now)

    def export(self, now: float, wall: float) -> list[list[object]]:
        """Who is kept out, as JSON values: a place, the end by the wall clock as it is set now, and why."""
        return [
            [*kept.place, None if kept.until is None else wall + kept.until - now, kept.why]
            for kept in self.all_kept_out(now)
        ]

    def restore(
        self, rows: Iterable[tuple[Place, float | None, str]], now: float, wall: float, since: float
    ) -> None:
        """Go on keeping them out, in another life; ``since``: what time it is by the clock of ``rows``."""
        for place, ends, why in rows:
            if ends is None or ends > since:
                self.keep_out(place, now, wall, None if ends is None else ends - since, why)
