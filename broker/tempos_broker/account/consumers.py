"""How the programs behind the members keep up, as the members say with their heartbeats.

Sans-IO: time is an argument (monotonic seconds). Nothing here is in the ledger's account; it names who is
to be looked at. What was last heard of a member is forgotten a while after it fell silent.
"""

from __future__ import annotations

from dataclasses import dataclass

from tempos_broker.account.accounts import Holder

#: Seconds after which it is no news any more that a member dropped or lost something.
RECENT = 30.0
#: Seconds of silence after which a member is forgotten, and how often that is looked for.
FORGOTTEN, LOOK_EVERY = 60.0, 10.0
#: The part of its queue that waits when a member is called slow.
FULL = 0.5


@dataclass(slots=True)
class Load:
    """What a member said last. ``waiting`` events of at most ``queue`` wait for its program.

    ``overruns``: datagrams at least that its socket had no room for. Both over all its topics.
    """

    waiting: int = 0
    queue: int = 0
    overruns: int = 0
    heard: float = 0.0
    dropped_at: float | None = None
    overran_at: float | None = None

    def slow(self, now: float) -> str | None:
        """Why this is a slow consumer now; None if it is none."""
        reasons = []
        if self.dropped_at is not None and now - self.dropped_at < RECENT:
            reasons.append("drops what it gets")
        if self.overran_at is not None and now - self.overran_at < RECENT:
            reasons.append("its socket overflows")
        if self.queue and self.waiting >= self.queue * FULL:
            reasons.append(f"{self.waiting:,} of {self.queue:,} events wait")
        return ", ".join(reasons) or None


class Consumers:
    """The loads of all members."""

    def __init__(self) -> None:
        self._loads: dict[Holder, Load] = {}
        #: Those that may be slow: so nobody need go through all to find them.
        self._suspects: dict[Holder, None] = {}
        self._looked = 0.0

    def told(self, holder: Holder, waiting: int, queue: int, overruns: int, now: float) -> None:
        """A member says how its program keeps up."""
        load = self._load(holder, now)
        if overruns > load.overruns:
            load.overran_at = now
        load.waiting, load.queue, load.overruns = waiting, queue, overruns
        if load.slow(now) is not None:
            self._suspects[holder] = None

    def dropped(self, holder: Holder, now: float) -> None:
        """A member says that it dropped more than it had said before."""
        self._load(holder, now).dropped_at = now
        self._suspects[holder] = None

    def all_slow(self, now: float) -> list[tuple[Holder, Load, str]]:
        """Every slow consumer, what it said last, and why it is one; in the order in which they became it."""
        found = []
        for holder in list(self._suspects):
            load = self._loads.get(holder)
            reason = load.slow(now) if load is not None else None
            if load is None or reason is None:
                del self._suspects[holder]
            else:
                found.append((holder, load, reason))
        return found

    def of(self, holder: Holder) -> Load | None:
        """What a member said last; None if it has said nothing, or long ago."""
        return self._loads.get(holder)

    def _load(self, holder: Holder, now: float) -> Load:
        if now - self._looked > LOOK_EVERY:
            self._looked = now
            self._loads = {h: load for h, load in self._loads.items() if now - load.heard < FORGOTTEN}
            self._suspects = {h: None for h in self._suspects if h in self._loads}
        load = self._loads.setdefault(holder, Load())
        load.heard = now
        return load
