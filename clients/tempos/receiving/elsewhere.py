"""The brokers of a fleet beside a subscriber's home: each sends it what was published there.

Every broker draws tickets of its own, so it has a socket, an intake and a session of its own here; what
comes goes to one consumer. Their sockets are at the home's port: the kernel tells them apart by who sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import fields, replace
from typing import Any, Literal, NamedTuple

from tempos import _sockets
from tempos._awaitables import in_time
from tempos._remarks import Sparingly
from tempos.auth import Signer
from tempos.errors import ControlRefused, LocalError, NoAnswer, NoWay, RemoteError
from tempos.model import Member
from tempos.receiving.drained import Drained
from tempos.receiving.intake import Intake
from tempos.receiving.sources import PublisherAccount
from tempos.receiving.standing import Standing
from tempos.receiving.stats import SubscriberStats
from tempos.session.following import FollowingSession
from tempos.session.link import ControlLink
from tempos.wire import KEEP_ALIVE

#: Whom entering waits for: the home alone, or all brokers of its fleet; the latter for so many seconds.
Confirm = Literal["home", "fleet"]
CONFIRMED_BY = 2.0
#: Seconds for which what comes of a topic is kept though a broker does not know of it: its route may be in
#: force before it says so.
GRACE = 1.0
#: Seconds between two looks at the home; of these it is silent until another one is taken, and answers
#: until it is taken again.
HOME_EVERY = 0.25
#: Seconds that one who leaves waits to be told of what it is a member elsewhere; and reads of its socket.
KNOWN_BY, CLOSING_READS = 1.0, 64
HOME_SILENT, HOME_BACK = 2, 4
#: And those at which a broker that the home does not know does not have this member either, until it is left;
#: and at which it says nothing: what waits there comes if it only stood still.
GONE, LOST = 4, 120

_log = logging.getLogger("tempos.subscriber")


class InFleet(NamedTuple):
    """How many ``brokers`` a fleet has, and how many have ``confirmed`` that a member is one there."""

    confirmed: int
    brokers: int


class Place(NamedTuple):
    """A broker of the fleet, as its others tell of it."""

    number: int
    address: str
    data: int
    control: int


class _Relay:
    """Wakes whoever waits at another intake."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def done(self) -> bool:
        waiter = self._intake.waiter
        return waiter is None or waiter.done()

    def set_result(self, result: None, /) -> None:
        self._intake.wake()


class Satellite:
    """What a subscriber has at one broker that is not its home."""

    def __init__(
        self, place: Place, intake: Intake, session: FollowingSession, signer: Signer | None
    ) -> None:
        self._signer = signer
        self.place = place
        self.intake = intake
        self._session = session
        self._standing = Standing(f"{place.address}:{place.control}", intake)
        self._reader: _sockets.Reader | None = None
        self._link: ControlLink | None = None

    async def open(self, home: int, member: Member, first: Callable[[bytes], None], client: int) -> None:
        """Take what the broker sends; ``home``: the descriptor at ``member``, to which ``first`` belongs.

        Raises :class:`LocalError` and :class:`NoWay`.
        """
        place, intake = self.place, self.intake
        peer = (place.address, place.data)
        sock, early = _sockets.beside(home, member.ip, member.port, peer, intake.receive_buffer)
        self._reader = _sockets.WatchingReader(sock, intake.receive, intake.overrun, refused=lambda: None)
        intake.look_for_lost = self._reader.look_for_lost
        for datagram, sender in early:
            (intake.receive if sender == peer else first)(datagram)
        intake.granted = _sockets.receive_buffer(sock)
        intake.doorman.broker = peer
        intake.doorman.expects_proof = False
        intake.replies.open(sock, place.address)
        self._link = link = await ControlLink.open(
            place.address, place.control, self._session, self._standing.on_event
        )

        def keep_alive(port: int) -> None:
            if sock.fileno() >= 0 and not place.address.startswith("127."):
                with contextlib.suppress(OSError):
                    sock.send(KEEP_ALIVE)

        link.keep_alive = keep_alive
        intake.connect(client, self._signer, link, lambda: member.port)

    async def greet(self) -> None:
        """Learn whose account it is there, then follow; a broker that does not answer is asked on."""
        assert self._link is not None, "open"
        with contextlib.suppress(RemoteError, LocalError):
            await self._link.ask("hello")
        self._session.follow(asyncio.get_running_loop().time())
        self._link.look()

    @property
    def link(self) -> ControlLink:
        """What it is asked by."""
        assert self._link is not None, "open"
        return self._link

    @property
    def standing(self) -> Standing:
        """Where the subscriber stands with it."""
        return self._standing

    async def leave(self, patience: float) -> Drained | None:
        """Be told that nothing more comes, and that all has come that was sent, if the broker answers."""
        try:
            if self._link is None or self._link.is_silent:
                return None
            await self._know_topics(self._link, patience)
            if not self._session.is_subscribed:
                await self._link.goodbye()
                return None
            answer = (await self._link.drain(patience)).fields
            told = [answer.get(name) for name in ("ticketed", "delivered", "lost")]
            counts = [count for count in told if type(count) is int]
            if len(counts) != len(told):
                return None
            self.intake.drained = not counts[2]
            self.intake.lost_at_end(counts[2])
            return Drained(*counts)
        except ControlRefused:
            # By its home it is no member any more: what came before that is told all the same.
            with contextlib.suppress(RemoteError, LocalError):
                await self.link.goodbye()
            return None
        except (RemoteError, LocalError):
            return None
        finally:
            await self.close()

    async def _know_topics(self, link: ControlLink, patience: float) -> None:
        """Learn of what this is a member here: who has left is not told any more."""
        if self._reader is not None:
            for _ in range(CLOSING_READS):
                if not self._reader.read_now():
                    break
        until = asyncio.get_running_loop().time() + min(patience, KNOWN_BY)
        while self.intake.holds or not link.topics:
            if link.is_silent or asyncio.get_running_loop().time() > until:
                return
            link.look()
            await asyncio.sleep(KNOWN_BY / 50)

    async def close(self) -> None:
        """Let go of it."""
        await self.intake.end()
        self.intake.replies.close()
        if self._reader is not None:
            while self._reader.read_now():
                pass
            await self._reader.close()
        if self._link is not None:
            await self._link.close()


class Others:
    """All satellites of one subscriber. ``make``: an intake for one more; ``signer``: what signs for it."""

    def __init__(
        self,
        home: Intake,
        make: Callable[[], Intake],
        signer: Callable[[], Signer | None],
        standing: Standing,
        confirm: Confirm,
    ) -> None:
        if confirm not in ("home", "fleet"):
            raise LocalError(f"confirm is {confirm!r}, allowed: 'home', 'fleet'")
        self._home = home
        self._make = make
        self._signer = signer
        self._confirm = confirm
        self._satellites: dict[Place, Satellite] = {}
        #: Those of brokers that are gone: what came of them stays in the counts.
        self._former: list[Satellite] = []
        #: The one that is the home by now; None: the one that was subscribed to.
        self.home_at: Satellite | None = None
        self._origin = 0
        # Where the broker that was subscribed to tells of its fleet.
        self._standing = standing
        standing.on_fleet = self.told
        self._guard: asyncio.Task[None] | None = None
        self._told: tuple[int, int, int] | None = None
        self._met: int | None = None
        self._moved: asyncio.Future[None] | None = None
        self._meeting: asyncio.Task[None] | None = None
        self._meet: Callable[[], Awaitable[None]] | None = None
        #: Those that the home does not know any more: whether silent, and for how many looks without us so.
        self._unlisted: dict[Place, tuple[bool, int]] = {}
        self._remarks = Sparingly(_log, time.monotonic)
        self._begun = self._closed = False

    @property
    def fleet(self) -> InFleet | None:
        """The fleet of the home, as it told last; None: it is in none."""
        return None if self._told is None else InFleet(*self._told[1:])

    @property
    def is_empty(self) -> bool:
        """Whether nothing comes but from the home."""
        return not self._satellites

    # --- who there is -----------------------------------------------------------------------

    def told(self, told: tuple[int, int, int] | None) -> None:
        """What the home says of its fleet."""
        self._told = told
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(None)
        if told is not None and told[0] != self._met and self._begun and not self._closed:
            self._meet_soon()

    def _meet_soon(self) -> None:
        if self._meeting is None or self._meeting.done():
            assert self._meet is not None, "begun"
            self._meeting = asyncio.ensure_future(self._meet())

    def has_left(self, first: ControlLink) -> bool:
        """Whether the broker that was subscribed to is gone, and another one the home."""
        return self.home_at is not None and first.is_silent

    def home_of(self, first: ControlLink) -> ControlLink:
        """The link to the home; ``first``: to the broker that was subscribed to."""
        return first if self.home_at is None else self.home_at.link

    def standing_of(self, first: Standing) -> Standing:
        """The same of where the subscriber stands."""
        return first if self.home_at is None else self.home_at.standing

    async def unsubscribe(self, first: ControlLink, wanted: str) -> bool:
        """Leave something, as it was subscribed to; whether it was. Raises as :meth:`ControlLink.ask`."""
        home = self.home_of(first)
        if await home.unsubscribe(wanted) is None:
            return False
        self.standing_of(self._standing).left(home.wants)
        return True

    async def enter(self, link: ControlLink, member: Member, home: _sockets.Reader) -> None:
        """Hear all of the home's fleet, if it is in one, and wait until all have this member, if wanted.

        ``home``: what reads the socket at ``member``.
        """
        if not isinstance(home, _sockets.WatchingReader):
            return

        async def meet() -> None:
            try:
                await self._meet_all(link, member, home.fileno())
            except (NoAnswer, LocalError, ControlRefused) as error:
                # Asked again with what the home tells next.
                _log.warning("the other brokers of the fleet are not known: %s", error)

        self._meet = meet
        self._begun = True
        if self._told is None:
            return
        await meet()
        self._guard = asyncio.ensure_future(self._keep_home(link))
        self._guard.add_done_callback(_log_failure)
        if self._confirm == "fleet":
            try:
                await in_time(self._until_confirmed(link), CONFIRMED_BY)
            except asyncio.TimeoutError:
                _log.warning("not all brokers of the fleet have confirmed this member yet: %s", self.fleet)
            for each in self._satellites.values():
                each.link.look()

    async def _until_confirmed(self, link: ControlLink) -> None:
        while self._told is not None and self._told[1] < self._told[2]:
            self._moved = asyncio.get_running_loop().create_future()
            link.look()
            await self._moved

    async def _meet_all(self, first: ControlLink, member: Member, home: int) -> None:
        link = self.home_of(first)
        changes, me, places = await _ask(link)
        if link is not self.home_of(first):
            # Another one is the home by now, and has told, or is about to.
            return
        self._origin = self._origin or me
        self._unlisted = {
            place: self._unlisted.get(place, (False, 0)) for place in self._satellites if place not in places
        }
        new = [place for place in places if place.number != self._origin and place not in self._satellites]
        for place in new:
            try:
                await self._open(place, member, home, link.client)
            except (NoWay, LocalError) as error:
                _log.warning("events of the broker at %s cannot be had: %s", place.address, error)
        if link is self.home_of(first):
            self._met = changes
            link.hear(self._all_but(self.home_at))
            link.look()

    async def _let_go(self, first: ControlLink) -> None:
        """Leave those that the home does not know any more, once they do not have this member themselves.

        Whoever has lost the store, or is lost to it, sends on to all members that it has; and who stood still
        sends what came to it meanwhile.
        """
        for place, (was_silent, looks) in list(self._unlisted.items()):
            satellite = self._satellites.get(place)
            if satellite is None or satellite is self.home_at or place not in self._unlisted:
                continue
            silent = satellite.link.is_silent
            looks = 0 if satellite.link.has_us or silent != was_silent else looks + 1
            self._unlisted[place] = silent, looks
            if looks < (LOST if silent else GONE):
                continue
            del self._unlisted[place], self._satellites[place]
            self._former.append(satellite)
            await satellite.close()
            self.home_of(first).hear(self._all_but(self.home_at))

    async def _open(self, place: Place, member: Member, home: int, client: int) -> None:
        signer, intake = self._signer(), self._make()
        session = FollowingSession(
            client=client, broker=f"{place.address}:{place.control}", port=member.port, counts=intake,
            signer=signer,
        )  # fmt: skip
        intake.waiter, intake.grace = _Relay(self._home), GRACE
        satellite = Satellite(place, intake, session, signer)
        try:
            await satellite.open(home, member, self._home.receive, client)
        except BaseException:
            await satellite.close()
            raise
        self._satellites[place] = satellite
        if not self._home.is_opening:
            intake.begin()
        greeting = asyncio.ensure_future(satellite.greet())
        greeting.add_done_callback(_log_failure)

    # --- another home -----------------------------------------------------------------------

    def _all_but(self, home: Satellite | None) -> list[int]:
        """The brokers that are heard beside a home, by number."""
        numbers = [place.number for place, each in self._satellites.items() if each is not home]
        return numbers if home is None else [*numbers, self._origin]

    async def _keep_home(self, first: ControlLink) -> None:
        """Take another broker for the home once that is silent, and the first one again once it is back."""
        silent = back = 0
        while True:
            await asyncio.sleep(HOME_EVERY)
            await self._let_go(first)
            silent = silent + 1 if self.home_of(first).is_leaving else 0
            # Who waits for topics has none in force there either.
            has_all = first.has_us and bool(first.topics or not self.home_of(first).topics)
            is_back = self.home_at is not None and not first.is_leaving and has_all
            back = back + 1 if is_back else 0
            if silent >= HOME_SILENT:
                candidates = [None, *self._satellites.values()]
                for each in candidates:
                    link = first if each is None else each.link
                    if (
                        each is not self.home_at
                        and not link.is_leaving
                        and await self._move_home(first, each)
                    ):
                        break
                silent = 0
            elif back >= HOME_BACK:
                await self._move_home(first, None)
                back = 0

    async def _move_home(self, first: ControlLink, to: Satellite | None) -> bool:
        """Be at home there; whether that could be."""
        before, link = self.home_of(first), first if to is None else to.link
        groups: dict[str | None, list[str]] = {}
        for name, group in before.wanted.items():
            groups.setdefault(group, []).append(name)
        link.hear(self._all_but(to))
        try:
            for group, wanted in groups.items():
                await in_time(link.subscribe(wanted, group), CONFIRMED_BY)
        except (RemoteError, LocalError, asyncio.TimeoutError) as error:
            why = str(error) or f"no answer in {CONFIRMED_BY:g} s"
            self._remarks.warn("no home", "no home at %s, will go on trying: %s", self._words(to), why)
            link.resign()
            return False
        _log.warning("at home at %s now, no more at %s", self._words(to), self._words(self.home_at))
        before.resign()
        # What that one knows of the others is asked anew.
        self.home_at, self._met = to, None
        self._standing.on_fleet = self.told if to is None else lambda told: None
        for each in self._satellites.values():
            each.standing.on_fleet = self.told if each is to else lambda told: None
        return True

    def _words(self, home: Satellite | None) -> str:
        return "the first broker" if home is None else f"{home.place.address}:{home.place.control}"

    def begin(self) -> None:
        """The home hands events out by now."""
        for satellite in self._satellites.values():
            if satellite.intake.is_opening:
                satellite.intake.begin()

    # --- leaving, counts --------------------------------------------------------------------

    async def leave(self, patience: float) -> list[Drained]:
        """Drain at all of them."""
        self._closed = True
        for task in (self._meeting, self._guard):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        drained = await asyncio.gather(*(each.leave(patience) for each in self._satellites.values()))
        return [each for each in drained if each is not None]

    @property
    def intakes(self) -> Iterable[Intake]:
        """Those of all brokers beside the home, of former ones, too."""
        return [each.intake for each in (*self._satellites.values(), *self._former)]

    def stats(self, home: SubscriberStats) -> SubscriberStats:
        """The counts of all together."""
        for intake in self.intakes:
            home = _sum(home, intake.stats)
        return home

    def publishers(self) -> tuple[PublisherAccount, ...]:
        """Whose events came by them."""
        return tuple(account for intake in self.intakes for account in intake.publishers())


def _sum(one: SubscriberStats, other: SubscriberStats) -> SubscriberStats:
    values: dict[str, Any] = {}
    for each in fields(SubscriberStats):
        mine, theirs = getattr(one, each.name), getattr(other, each.name)
        if isinstance(mine, int):
            values[each.name] = mine + theirs
        else:
            values[each.name] = {key: mine.get(key, 0) + theirs.get(key, 0) for key in mine | theirs}
    return replace(one, **{**values, "receive_buffer": one.receive_buffer})


def together(drained: Drained | None, others: Iterable[Drained]) -> Drained | None:
    """What was drained at all brokers."""
    for each in others:
        if drained is not None:
            each = Drained(
                drained.ticketed + each.ticketed, drained.delivered + each.delivered, drained.lost + each.lost
            )
        drained = each
    return drained


def _log_failure(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a broker of the fleet cannot be followed", exc_info=error)


async def _ask(link: ControlLink) -> tuple[int, int, list[Place]]:
    """The state of the home's fleet, the home's number, and all brokers."""
    places: list[Place] = []
    while True:
        answer = (await link.ask("fleet", after=places[-1].number if places else 0)).fields
        rows, me, changes = answer.get("brokers"), answer.get("me"), answer.get("changes")
        if type(me) is not int or type(changes) is not int or not isinstance(rows, list):
            raise LocalError("the broker tells of a fleet what cannot be read")
        for row in rows:
            if not isinstance(row, list) or len(row) != 4 or not isinstance(row[1], str):
                raise LocalError("the broker tells of a fleet what cannot be read")
            places.append(Place(*row))
        if not answer.get("more") or not rows:
            return changes, me, places
