"""Redelivery in a broker: what it hears of routes and members, and whom it tells that there is something.

A member is gone when it is in no route of its group any more and its lease is over, or the patience of its
drain; where it lives on elsewhere, a lease after it left. What it was sent and did not say to have processed
makes a lot, which goes to one member of the group that is there, or will be (:mod:`.handing`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from tempos import Route, Topic
from tempos.redelivery.asking import encode_waiting
from tempos_broker.account.accounts import Holder, Orphans
from tempos_broker.account.changes import Changes, Kind
from tempos_broker.account.ledger import Ledger
from tempos_broker.config.model import OWN_GROUP
from tempos_broker.control.decisions import Decision, Way
from tempos_broker.control.hearing import Hearing
from tempos_broker.journal.journals import Journals
from tempos_broker.lives.memory import UNREADABLE
from tempos_broker.membership import Registry
from tempos_broker.redelivery.handing import Handing
from tempos_broker.redelivery.lots import Lot
from tempos_broker.redelivery.topic import TopicOwed
from tempos_broker.redelivery.turning import Turning
from tempos_broker.repair.desk import Drawn, Say
from tempos_broker.tasks import Tasks

log = logging.getLogger("tempos.broker.redelivery")

#: The kind under which the state has what is owed.
OWED = "owed"
#: Seconds between two looks: who is gone, who is to be told again.
LOOK = 0.25
#: The same while more is to be copied out of a journal; and while nothing comes, that at least, and so many
#: times as long as the last look took.
HURRY = 0.002
IDLE, RARELY = 1.0, 50
#: Seconds between two writings of what changes without a swap, and topics that are written together.
SAVE_EVERY, TOGETHER = 1.0, 64

#: Writes things of a kind.
Put = Callable[[str, Mapping[str, Any]], Awaitable[bool]]


class Redelivery:
    """``drawn``: tickets as they stand now. ``say``: sends from the data port. ``put``: stores.

    ``is_off``: nothing is handed out again, for members say elsewhere, too, what they have processed.
    """

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        journals: Journals,
        drawn: Drawn,
        say: Say,
        put: Put,
        *,
        instance: int,
        life: int,
        changes: Changes,
        is_off: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._is_off = is_off
        self._ledger = ledger
        self._journals = journals
        self._drawn = drawn
        self._say = say
        self._put = put
        self._log = changes.of(Kind.LEFT, log)
        self._topics: dict[int, TopicOwed] = {}
        self._handing = Handing(registry, journals, self._topics, instance=instance, life=life)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        # Topics of which lots wait that are kept aside.
        self._crowded: set[int] = set()
        # Those whose journal holds less than comes within a lease.
        self._short: set[int] = set()
        self._turning: dict[int, Turning] = {}
        # Of which more is to be copied.
        self._copying: set[int] = set()
        self._tasks = Tasks()
        self._is_saving = False
        self._saved_at = 0.0
        #: What members have said by now counts.
        self.hearing = Hearing()
        #: Before all topics are taken up nobody is known to be gone.
        self._is_closed = True

    # --- what routes say ----------------------------------------------------------------------

    def restore(self, stored: Mapping[str, Any], topics: Iterable[Topic]) -> None:
        """Go on with what a former life has stored. Nonsense is told, and left out."""
        names = {topic.name: topic for topic in topics if topic.redeliver}
        for key, value in stored.items():
            try:
                owed = TopicOwed.load(value)
            except UNREADABLE as error:
                log.warning("what is owed of topic number %s makes no sense and is left out: %r", key, error)
                continue
            topic = names.get(owed.name)
            if topic is not None and str(topic.id) == key:
                self._topics[topic.id] = owed
            else:
                owed.changed = False

    def concerns(self, topic: Topic) -> bool:
        """Whether anything of a topic is handed out again, or was."""
        return topic.redeliver or topic.id in self._topics

    def opened(self, route: Route, holders: Sequence[tuple[str, Sequence[Holder]]]) -> None:
        """A route is about to be in force, or is again; its epoch is in the journal."""
        topic = route.topic
        if not topic.redeliver or self._is_off:
            if topic.id in self._topics:
                self.forget(topic.id)
            return
        owed = self._topics.get(topic.id)
        if owed is None:
            owed = self._topics[topic.id] = TopicOwed(topic.name)
        named = [(name, [] if name.startswith(OWN_GROUP) else members) for name, members in holders]
        first = self._journals.first(topic.id, route.epoch)
        given_up = owed.opened(route.epoch, first, named, self._clock())
        if given_up:
            self._log.warning(
                "topic %s: %d events are owed to members in more epochs than are remembered; they are not "
                "handed out again", topic.name, given_up,
            )  # fmt: skip

    def closed(self, topic: int, epoch: int, groups: int) -> None:
        """Of an epoch no packet uses the route any more: its tickets are final."""
        owed = self._topics.get(topic)
        if owed is not None and owed.is_open(epoch):
            owed.closed(epoch, [self._drawn(topic, epoch, group) for group in range(groups)])
            self._wake(0.0)

    def begun(self, topic: int, epoch: int) -> None:
        """A life has taken a topic up, in this epoch: others that seem to be open are over."""
        owed = self._topics.get(topic)
        if owed is not None and owed.only_open(epoch):
            self._log.warning(
                "topic %s: nobody knows any more how much members were sent last; what they have not "
                "processed of it is not handed out again", owed.name,
            )  # fmt: skip

    async def keep(self, *topics: int) -> None:
        """Have it stored what is owed of these topics."""
        kept = {topic: owed for topic in topics if (owed := self._topics.get(topic)) is not None}
        for owed in kept.values():
            owed.changed = False
        if kept:
            await self._put(OWED, {str(topic): owed.export() for topic, owed in kept.items()})

    def forget(self, topic: int) -> None:
        """A topic is no more, or hands out nothing again any more."""
        self._turning.pop(topic, None)
        for those in (self._crowded, self._short, self._copying):
            those.discard(topic)
        if self._topics.pop(topic, None) is not None:
            self._tasks.spawn(self._store({str(topic): None}), f"forget what is owed of topic number {topic}")

    async def _store(self, things: Mapping[str, Any]) -> None:
        await self._put(OWED, things)

    # --- what members say ---------------------------------------------------------------------

    def request(self, request: Any, way: Way, now: float) -> Decision:
        """See :meth:`Handing.request`."""
        decision = self._handing.request(request, way, now)
        self._wake(LOOK)
        return decision

    # --- what is told ---------------------------------------------------------------------------

    def accounts(self, topic: int) -> Mapping[str, Orphans]:
        """Of each group what was handed over, and what became of it."""
        owed = self._topics.get(topic)
        return owed.accounts() if owed is not None else {}

    def aside(self, topic: int) -> int:
        """How many events of it are kept aside."""
        owed = self._topics.get(topic)
        return owed.kept_aside if owed is not None else 0

    @property
    def is_copying(self) -> bool:
        """Whether there is more that is about to be overwritten: then it looks again at once."""
        return bool(self._copying)

    def begin(self) -> None:
        """All topics are taken up, and their members."""
        self._is_closed = False
        self._wake(LOOK)

    # --- in time --------------------------------------------------------------------------------

    def close(self) -> None:
        """Tell nobody anything any more; safe to call twice."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def save_rest(self) -> None:
        """Write down what changed."""
        changed = [topic for topic, owed in self._topics.items() if owed.changed]
        for first in range(0, len(changed), TOGETHER):
            await self.keep(*changed[first : first + TOGETHER])

    def _wake(self, seconds: float) -> None:
        if self._is_closed:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        # Not the handle's own: that of uvloop has none where it is due now.
        self._due = due
        self._timer = loop.call_later(seconds, self.look)

    def look(self) -> None:
        """Look once who is gone, what is to be kept and told; again when that is due."""
        self._timer = None
        now, began = self._clock(), time.thread_time()
        heard = self.hearing.is_done(now, self._registry.lease)
        busy = not heard
        for topic, owed in self._topics.items():
            if heard:
                self._settle(topic, owed, now)
            busy = self._keep_aside(topic, owed, now) or busy
            self._handing.sweep(topic, owed)
            for group, lapsed in owed.lapsed_since():
                self._log.warning(
                    "topic %s, group %s: %d events so far that were to be handed out again are not to be had "
                    "any more: give its journal more room", owed.name, group, lapsed,
                )  # fmt: skip
            owed.tidy(self._ledger.groups(topic))
            busy = self._tell(topic, owed) or owed.is_busy or busy
        self._save(now)
        if self._copying:
            # Never by how long it took: on a busy machine that is others' time, and what comes goes on.
            self._wake(HURRY)
        elif busy:
            self._wake(LOOK)
        elif self._topics:
            # What comes where all members died a moment ago comes with nobody to say anything.
            self._wake(max(IDLE, RARELY * (time.thread_time() - began)))

    def _keep_aside(self, topic: int, owed: TopicOwed, now: float) -> bool:
        """Copy what may be to be handed out again and is about to be overwritten; whether anything came."""
        latest, slots = owed.latest, self._journals.slots(topic)
        epoch, first = latest or (0, 0)
        if not first or not slots:
            self._copying.discard(topic)
            return False
        drawn, lease = self._drawn(topic, epoch, 0), self._registry.lease
        turning = self._turning.setdefault(topic, Turning())
        came = turning.moved(epoch, drawn, now, lease)
        if not came and topic not in self._copying:
            return False
        self._tell_short(topic, owed, turning.rate * lease, slots)
        # Where it turns between two looks there is nothing to be saved.
        live = owed.unprocessed(partial(self._drawn, topic)) if came < slots // 2 else ()
        more = self._handing.keep_aside(topic, owed, first + drawn, live)
        (self._copying.add if more else self._copying.discard)(topic)
        crowded = any(len(lot.aside) for lot in owed.lots)
        if crowded and topic not in self._crowded:
            self._log.warning(
                "topic %s: what is to be handed out again waits for so long that its journal is about to be "
                "overwritten; it is kept aside, up to as much as the journal takes: the group does not keep "
                "up with what comes", owed.name,
            )  # fmt: skip
        (self._crowded.add if crowded else self._crowded.discard)(topic)
        return True

    def _tell_short(self, topic: int, owed: TopicOwed, within: float, slots: int) -> None:
        """So many events come within a lease."""
        if within > slots and topic not in self._short:
            self._short.add(topic)
            self._log.warning(
                "topic %s: its journal keeps %d events, and %.0f come within a lease of %g s, before which "
                "nobody knows that a member is gone; what that one had is kept aside as far as that goes: "
                "give the journal more room, or the leases less time",
                owed.name, slots, within, self._registry.lease,
            )  # fmt: skip
        elif within < slots / 2:
            self._short.discard(topic)

    def _save(self, now: float) -> None:
        if self._is_saving or now < self._saved_at + SAVE_EVERY:
            return
        if any(owed.changed for owed in self._topics.values()):
            self._saved_at = now
            self._is_saving = True
            self._tasks.spawn(self._save_now(), "store what is owed")

    async def _save_now(self) -> None:
        try:
            await self.save_rest()
        finally:
            self._is_saving = False

    def _settle(self, topic: int, owed: TopicOwed, now: float) -> None:
        """Make lots of what those are owed that are gone by now."""
        present = self._present(topic)
        leaving = self._registry.leaving()
        for client in owed.absent(present, now):
            holder = owed.holder(client)
            known = leaving.get(holder) if holder is not None else None
            lives = holder is not None and self._registry.lease_of(holder) is not None
            if not owed.has_said_last(client):
                if known is not None and now < known.deadline + LOOK:
                    continue
                if lives and now < owed.left_at(client) + self._registry.lease:
                    continue
            if not owed.does_speak(client) and holder is not None and self._tells(holder):
                owed.forgive(client)
                continue
            lot = owed.hand_over(client)
            if lot is not None:
                self._told_of(topic, lot, holder)

    def _tells(self, holder: Holder) -> bool:
        """Whether a member has told that it got events: then it would have told what it has processed."""
        return any(account.delivered for account in self._ledger.accounts(holder))

    def _told_of(self, topic: int, lot: Lot, holder: Holder | None) -> None:
        who = "a member" if holder is None else f"{holder.ip}:{holder.port}"
        nobody = not any(
            state.name == lot.group and not all(each.is_vacancy for each in state.members.values())
            for state in (self._registry.states(topic) if self._registry.numbered(topic) is not None else ())
        )
        known = self._registry.numbered(topic)
        self._log.warning(
            "topic %s, group %s: %d events that %s was sent and is not known to have processed are handed "
            "out again%s", known.name if known else topic, lot.group, lot.left, who,
            ", to the next member: nobody is left" if nobody else "",
        )  # fmt: skip

    def _present(self, topic: int) -> dict[int, str]:
        """The group of each client that is a member."""
        if self._registry.numbered(topic) is None:
            return {}
        return {
            member.client: group.name
            for group in self._registry.states(topic)
            for member in group.members.values()
            if member.client is not None
        }

    def _tell(self, topic: int, owed: TopicOwed) -> bool:
        """Tell members that there is something for them; whether there is anything that waits."""
        waits = False
        for group, lots in owed.untaken():
            waits = True
            for client, holder, via in owed.free_listeners(group, self._present(topic))[:lots]:
                self._say(encode_waiting(client, topic), (holder.ip, holder.port), via)
        return waits
