"""The broker's end of the control protocol, without I/O.

    datagram -> decoded once -> decided: a :class:`Decision` -> its routes swapped -> its answer rendered

:meth:`ControlServer.receive_datagram` does the first two, the shell swaps the routes of the topics that
changed, :meth:`ControlServer.render` makes the reply, so that a subscriber that got its answer gets events.
Datagrams that cannot be answered are counted and dropped. In between there are only values.

Who may ask at all is decided by :mod:`tempos_broker.control.auth`; what is not served is counted under its
reason, and told in the log sparingly. No reply is larger than the datagram it answers, whoever sent it.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tempos import Topic
from tempos._abi import PROBE_VERSION_1
from tempos._remarks import Sparingly
from tempos.auth import REPLY_OVERHEAD
from tempos.control import (
    PATIENCE,
    U32,
    Asked,
    BadRequest,
    Code,
    Out,
    Request,
    Sent,
    Told,
    decode_request,
    encode_error_within,
    encode_ok,
    packb,
)
from tempos.names import is_filter, matcher
from tempos_broker.account.accounts import Holder
from tempos_broker.account.changes import Changes, Kind
from tempos_broker.account.ledger import Ledger
from tempos_broker.config.model import ControlConfig
from tempos_broker.control.auth import Admitted, Caller, Denied, Guard
from tempos_broker.control.clock import Clock, ForwardTime
from tempos_broker.control.decisions import (
    Decision,
    Done,
    Drained,
    Joined,
    Listed,
    Refusal,
    Renewed,
    Way,
    holder_of,
    removed,
    too_short,
    topic_fields,
)
from tempos_broker.control.late import Late, former
from tempos_broker.control.listing import Listing
from tempos_broker.control.proofs import Proofs, told_port
from tempos_broker.control.proving import unproven
from tempos_broker.control.reach import Reach
from tempos_broker.control.repeats import Repeats
from tempos_broker.control.reports import Reports
from tempos_broker.fleet.desk import Desk
from tempos_broker.members.known import own_group
from tempos_broker.members.unheard import beats_for
from tempos_broker.membership import Refused, Registry
from tempos_broker.slowpath.returns import LIFETIME

log = logging.getLogger("tempos.broker.control")

#: Bytes of an answer's field ``told`` before its rows.
_TOLD_HEAD = 9
#: Bytes that an answer to who subscribes has for memberships at least: one of them, with the longest name.
_ROOM_TO_LIST = 360
#: Topics joined by filter before anything else has its turn.
JOINED_AT_ONCE = 256
#: In ``replies``: an answer was larger than its request, so a short error went instead, or nothing.
TOO_LARGE = "reply too large"
#: Operations that change routes.
_CHANGES = frozenset({"subscribe", "unsubscribe", "drain", "goodbye"})

#: Decides about a request at a time.
Operation = Callable[[Request, Way, float], Decision]


class ControlServer:
    """Serves control datagrams from a :class:`Registry`.

    ``epoch`` tells the epoch in force of a topic; ``name`` and ``instance`` identify this start of
    the broker, so that clients notice a restart; ``life`` differs even where the account goes on with a
    former one, so that they tell again what may not have been stored. ``returns`` seals a return address for
    an endpoint that asked at an address of ours; None: this broker sends no replies on. ``largest`` tells how
    many bytes of payload all members of a topic get; None: nobody knows. ``single``: whether publishers send
    each datagram by itself. ``proofs``: what members prove with that they receive where they say; None:
    nobody has to. ``wall`` gives Unix time in seconds, ``monotonic`` seconds of the clock that ``now`` is of.
    ``more``: operations that others carry out. ``fleet``: asked for what concerns it, if this broker is in
    one.
    """

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        config: ControlConfig,
        *,
        name: str,
        instance: int,
        epoch: Callable[[int], int],
        life: int | None = None,
        returns: Callable[[str, int, str | None], bytes] | None = None,
        largest: Callable[[int], int] | None = None,
        single: Callable[[], bool] = lambda: False,
        proofs: Proofs | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        changes: Changes | None = None,
        more: Mapping[str, Operation] | None = None,
        fleet: Desk | None = None,
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        #: What members tell.
        self.reports = Reports(ledger, instance)
        reach = (Changes() if changes is None else changes).of(Kind.REACH, log)
        self._reach = Reach(registry, ledger, reach, lambda: self.wall())
        self._name = name
        self._instance = instance
        self._life = random.getrandbits(32) if life is None else life
        self._monotonic = monotonic
        self._clock, self._late = Clock(self._life, monotonic), Late()
        self._epoch = epoch
        self._returns, self._largest, self._single = returns, largest, single
        self._proofs = proofs
        self._fleet = Desk(registry) if fleet is None else fleet
        self._listing = Listing(
            registry, ledger, epoch, self._life, lambda: self._now, self._fleet.told, instance
        )
        self.wall = ForwardTime(wall, monotonic)
        self.guard = Guard(config, self.wall(), self._fleet.addressee)
        self._time_by(config)
        self.repeats = Repeats(registry, ledger, self.reports, self.guard, self._fleet, instance)
        self._now = 0.0
        self._log = Sparingly(log, lambda: self._now)
        #: Every datagram is in one of these once: by operation, by why not.
        self.served: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        #: Whether nobody joins or leaves any more.
        self.stopping = False
        #: What became of replies, where it is not what was meant.
        self.replies: Counter[str] = Counter()
        self._operations: dict[str, Operation] = {
            "hello": self._hello,
            "resolve": self._resolve,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "heartbeat": self._heartbeat,
            "drain": self._drain,
            "goodbye": self._goodbye,
            "sent": self._sent,
            "return_address": self._return_address,
            "fleet": self._fleet.request,
            **(more or {}),
        }

    def when(self, clock: int) -> float | None:
        """When this broker's clock said so, in monotonic seconds; None: another's did."""
        return self._clock.when(clock)

    def reconfigure(self, config: ControlConfig) -> None:
        """Go by another configuration from now on."""
        self.guard.reconfigure(config, self.wall())
        self._time_by(config)

    def receive_datagram(
        self, datagram: bytes, ip: str, now: float, asked: str | None = None
    ) -> Decision | None:
        """Decide about one datagram from ``ip``; None when there is nobody to answer.

        ``asked``: the address of ours that it was sent to, where that is known.
        """
        self._now = now
        try:
            admitted = self.guard.admit(datagram, ip, self.wall(), now)
        except Denied as denied:
            return self._deny(denied, ip, len(datagram))
        room = len(datagram) - (REPLY_OVERHEAD if admitted.key else 0)
        try:
            request = decode_request(admitted.plain)
        except BadRequest as error:
            self.refused[error.code] += 1
            if error.request_id is None:
                return None
            way = Way(admitted, error.request_id, room)
            return Decision(way, Refusal(error.code, str(error), error.hint))
        way = Way(admitted, request.id, room, asked, request.op)
        if self.stopping and request.op in _CHANGES:
            self.refused[Code.STOPPING] += 1
            return Decision(way, Refusal(Code.STOPPING, "the broker is stopping", "ask again"))
        left = self._fleet.came(request, way)
        try:
            if request.op == "subscribe":
                self._late.comes(request, way, now)
                first = unproven(self._proofs, self._registry, holder_of(request, way), request, way, now)
                if first is not None:
                    self.served[Code.PROVE] += 1
                    return first
                left = self._leave_former(request, way, now) | self._take_place(request, way)
            operation = self._operations.get(request.op)
            if operation is None:
                raise Refused(Code.UNKNOWN_OPERATION, f"this broker does not {request.op}", "")
            decision = operation(request, way, now)
            left |= self._fleet.heard(request, way)
        except Refused as error:
            self.refused[error.code] += 1
            if error.code == Code.NOT_ALLOWED:
                self._tell(error.code, way.caller, str(error))
            return Decision(way, Refusal(error.code, str(error), error.hint), left)
        self.served[request.op] += 1
        return decision._replace(changed=decision.changed | left) if left else decision

    def _time_by(self, config: ControlConfig) -> None:
        lease, heartbeat = round(config.lease * 1000), round(config.heartbeat * 1000)
        self._timing = {"lease_ms": lease, "heartbeat_ms": heartbeat, "instance": self._instance}
        self._reach.needed = beats_for(heartbeat / 1000)

    # --- replies ----------------------------------------------------------------------------

    def render(self, decision: Decision) -> bytes | None:
        """The reply to a decision whose routes are in place.

        None: not yet, the client asks again with newer counts; or what there is to say is larger than what
        was asked.
        """
        way, answer = decision.way, decision.answer
        plain: bytes | None
        match answer:
            case Done(fields):
                plain = encode_ok(way.request_id, **fields)
            case Joined(topic, _) if not self._registry.still_has(topic):
                return self.render(Decision(way, removed(topic)))
            case Joined(topic, group):
                plain = self._joined(way, topic, group, self._epoch(topic.id))
            case Listed():
                plain = self._listed(way, answer)
            case Renewed():
                plain = self._renewed(way, answer)
            case Drained():
                plain = self._drained(way, answer)
            case Refusal(code, text, hint, proof, port, to):
                plain = encode_error_within(way.room, way.request_id, code, text, hint, proof, port, to)
                if plain is None:
                    self.replies[TOO_LARGE] += 1
        if plain is not None and len(plain) > way.room:
            self.replies[TOO_LARGE] += 1
            cut = too_short(len(plain))
            plain = encode_error_within(way.room, way.request_id, cut.code, str(cut), cut.hint)
        return None if plain is None else way.admitted.seal(plain, self.wall)

    def _joined(self, way: Way, topic: Topic, group: str, epoch: int) -> bytes:
        return encode_ok(
            way.request_id, topic=topic_fields(topic), group=group, epoch=epoch,
            clock=self._clock.not_before(), **self._timing,
        )  # fmt: skip

    def _renewed(self, way: Way, answer: Renewed) -> bytes:
        holder, asked = answer.holder, answer.asked
        lease = self._registry.lease_of(holder)
        unheard = lease.progress.lost if lease is not None else 0
        if answer.since is not None:
            fields = {"life": self._life, **({"unheard": unheard} if unheard else {})}
            if answer.since:
                fields = self._listing.fields(way, holder, answer.since, fields)
            return self._with_told(way, asked, **fields)
        in_force = [(each.topic, self._epoch(each.topic)) for each in asked]
        epochs = [(topic, epoch, self._ledger.members(topic, epoch, holder)) for topic, epoch in in_force]
        more = {"out": answer.out} if answer.out else {}
        return self._with_told(way, asked, life=self._life, epochs=epochs, **more)

    def _listed(self, way: Way, answer: Listed) -> bytes:
        fields = self._heading(answer)
        if answer.failed:
            fields["failed"] = answer.failed
            if len(encode_ok(way.request_id, **fields)) > way.room - _ROOM_TO_LIST:
                # Which, if not why.
                fields["failed"] = [(index, code) for index, code, *_ in answer.failed]
        return encode_ok(way.request_id, **self._listing.fields(way, answer.holder, answer.since, fields))

    def _heading(self, answer: Listed) -> dict[str, Any]:
        clock = self._clock.not_before()
        return {"life": self._life, "group": answer.group, "clock": clock, **self._timing}

    def _with_told(self, way: Way, asked: Iterable[Asked], **fields: Any) -> bytes:
        """An answer that also says what publishers have told, as far as there is room."""
        answer = encode_ok(way.request_id, **fields)
        room = way.room - len(answer) - _TOLD_HEAD
        told: list[Told] = []
        for each in asked:
            for row in self._ledger.publishers.news(each.topic, each.known):
                room -= len(packb(row))
                if room < 0:
                    return encode_ok(way.request_id, **fields, told=told) if told else answer
                told.append(row)
        return encode_ok(way.request_id, **fields, told=told) if told else answer

    def _drained(self, way: Way, answer: Drained) -> bytes | None:
        # Only now, after the swap, is it known what was ticketed for the leaver.
        self.reports.book(answer.holder, answer.told, self._now)
        accounts = self._ledger.accounts(answer.holder)
        outstanding = sum(account.outstanding for account in accounts)
        if outstanding and not answer.late:
            return None
        if not outstanding and answer.told["untold"] == 0:
            # Nothing is sent to it any more, and it has told of all that was.
            self._ledger.publishers.complete(answer.holder, self._monotonic())
        ticketed = sum(account.ticketed for account in accounts)
        leaving = self._registry.leaving().get(answer.holder)
        if leaving is not None:
            # Who asks again, for the answer was lost, hears the same, whatever was settled meanwhile.
            if leaving.answered is not None and not accounts:
                ticketed, outstanding = leaving.answered
            leaving.answered = ticketed, outstanding
        asked = answer.told["topics"] or ()
        return self._with_told(
            way, asked, ticketed=ticketed, delivered=ticketed - outstanding, lost=outstanding
        )

    def _deny(self, denied: Denied, ip: str, size: int) -> Decision | None:
        self.refused[denied.count] += 1
        self._tell(denied.count, ip, str(denied))
        if denied.code is None:
            return None
        try:
            request_id = decode_request(denied.plain).id
        except BadRequest as error:
            if error.request_id is None:
                return None
            request_id = error.request_id
        room = size - (REPLY_OVERHEAD if denied.signed else 0)
        way = Way(denied.signed or Admitted(Caller(ip), b""), request_id, room)
        answer = Refusal(denied.code, str(denied), denied.hint, addressee=denied.addressee)
        return Decision(way, answer)

    def _tell(self, reason: str, who: object, text: str) -> None:
        self._log.warn(reason, f"control request from {who} refused: {text}")

    # --- operations -------------------------------------------------------------------------

    def _hello(self, request: Request, way: Way, now: float) -> Decision:
        return Decision(way, Done({"broker": self._name, **self._timing}))

    def _resolve(self, request: Request, way: Way, now: float) -> Decision:
        way.caller.require(request.fields["topic"], "publish", "subscribe")
        topic = self._registry.topic(request.fields["topic"])
        members = self._registry.member_count(topic.id)
        fields = {"topic": topic_fields(topic), "members": members, "clock": self._clock.not_after()}
        return Decision(way, Done({**fields, **self._sizes([topic.id]), **told_port(self._proofs)}))

    def _sizes(self, topics: Sequence[int]) -> dict[str, Any]:
        """The largest datagram that all members of topics get, of each, where that is known; ``single``."""
        told: dict[str, Any] = {"single": True} if self._single() else {}
        return told | ({"largest": [(each, self._largest(each)) for each in topics]} if self._largest else {})

    def joins(self, decision: Decision) -> Iterator[set[int]]:
        """Carry out what a decision wants by filters, some topics at a time: those that changed."""
        answer, left = decision.answer, len(decision.joining)
        if not isinstance(answer, Listed):
            return
        try:
            for begin in range(0, len(decision.joining), JOINED_AT_ONCE):
                some = decision.joining[begin : begin + JOINED_AT_ONCE]
                changed = self._registry.join(answer.holder, some, self._now)
                left -= len(some)
                self._registry.will_join(answer.holder, -len(some))
                yield changed
        finally:
            self._registry.will_join(answer.holder, -left)

    def pass_over(self, decision: Decision) -> None:
        """What a decision wants by filters another one like it is carrying out."""
        if isinstance(decision.answer, Listed):
            self._registry.will_join(decision.answer.holder, -len(decision.joining))

    def _leave_former(self, request: Request, way: Way, now: float) -> frozenset[int]:
        """End what the same client has where it was before its address changed; the topics that this changes.

        So one swap takes the one place out and the other in.
        """
        who = None if way.caller.client is None else way.caller.client.id
        changed: set[int] = set()
        for place in self._late.moves(request, way, now):
            lease = self._registry.lease_of(Holder(*place, request.client))
            if lease is not None and all(wanted.client == who for wanted in lease.wanted.values()):
                changed |= self._registry.goodbye(place, request.client)
        return frozenset(changed)

    def _subscribe_all(self, request: Request, way: Way, now: float) -> Decision:
        """Of what a request names, each by itself: one that cannot be does not keep it from the others."""
        group, endpoint = request.fields["group"], (way.caller.ip, request.fields["port"])
        holder = holder_of(request, way)
        answer = Listed(holder, group or own_group(*endpoint), tuple(request.fields["since"] or (0, 0)))
        # Whoever cannot be told that it is a member is not made one.
        size = len(encode_ok(way.request_id, **self._heading(answer))) + _ROOM_TO_LIST
        if size > way.room:
            raise too_short(size)
        who = None if way.caller.client is None else way.caller.client.id
        failed: list[tuple[int, Refused]] = []
        changed: set[int] = set()
        found: dict[int, Topic] = {}
        for index, wanted in enumerate(request.fields["topics"]):
            ask = (wanted, group, endpoint, request.client, now, way.asked, who)
            try:
                self._late.comes(request, way, now, wanted)
                way.caller.require(wanted, "subscribe")
                if is_filter(wanted):
                    found |= {topic.id: topic for topic in self._registry.subscribe_by(*ask)}
                else:
                    changed.add(self._registry.subscribe(*ask, follows=True).topic.id)
            except Refused as error:
                failed.append((index, error))
        if len(failed) == len(request.fields["topics"]):
            raise failed[0][1]
        for _, each in failed:
            self.refused[each.code] += 1
        self._registry.will_join(holder, len(found))
        told = tuple((index, each.code, str(each), each.hint) for index, each in failed)
        return Decision(way, replace(answer, failed=told), frozenset(changed), tuple(found.values()))

    def _subscribe(self, request: Request, way: Way, now: float) -> Decision:
        if request.fields["topics"] is not None:
            return self._subscribe_all(request, way, now)
        name, group = request.fields["topic"], request.fields["group"]
        if name is None:
            raise Refused(Code.BAD_REQUEST, "subscribe: neither topic nor topics", "name what is wanted")
        endpoint = (way.caller.ip, request.fields["port"])
        self._late.comes(request, way, now, name)
        way.caller.require(name, "subscribe")
        # Whoever cannot be told that it is a member is not made one.
        size = len(self._joined(way, self._registry.topic(name), group or own_group(*endpoint), U32))
        if size > way.room:
            raise too_short(size)
        who = None if way.caller.client is None else way.caller.client.id
        done = self._registry.subscribe(name, group, endpoint, request.client, now, way.asked, who)
        # Even when nothing changed the swap may still be under way for an earlier copy of this
        # request; the shell's per-topic order makes this answer wait for it.
        return Decision(way, Joined(done.topic, done.group), frozenset({done.topic.id}))

    def _take_place(self, request: Request, way: Way) -> frozenset[int]:
        """Whoever was at an endpoint before that is proven now is gone; the topics that this changes."""
        if self._proofs is None or not request.fields["proof"]:
            return frozenset()
        return frozenset(self._registry.take_place(holder_of(request, way)))

    def _unsubscribe(self, request: Request, way: Way, now: float) -> Decision:
        way.caller.require(request.fields["topic"], "subscribe")
        name = request.fields["topic"]
        if not self._late.leaves(request, way, now, name):
            return Decision(way, Done())
        here = (way.caller.ip, request.fields["port"])
        left = self._registry.unsubscribe(name, request.fields["group"], here, request.client)
        # A repeated one changes nothing, but what the first one changed may not be in force yet.
        match = matcher(name)
        held = () if left else (topic.id for topic in self._registry.topics if match(topic.name))
        return Decision(way, Done(), frozenset(left.union(held)))

    def _heartbeat(self, request: Request, way: Way, now: float) -> Decision:
        way.caller.require_any("subscribe")
        holder = holder_of(request, way)
        self.repeats.forget(holder)
        for place in former(request, way):
            self.reports.book_former(Holder(*place, request.client), holder, request.fields)
        # What a member got before it was taken out is news even where it is no member any more.
        self.reports.book(holder, request.fields, now)
        mine = self._registry.heartbeat((holder.ip, holder.port), request.client, now)
        if mine is None:
            raise self._no_member(holder)
        # Who only asks what is new tells nothing of what came.
        tells = request.fields["since"] is None or request.fields["full"] is not None
        unheard = self._reach.listen_for(holder, now) if tells else frozenset()
        asked, since = request.fields["topics"], request.fields["since"]
        if since is not None:
            lease = self._registry.lease_of(holder)
            if lease is not None and since and since[0] == self._life:
                lease.heard(since[1])
            tried = self._registry.try_again(holder, now)
            awaits = not (tells or tried or self._listing.has_news(holder, since))
            known = tuple(each for each in asked or () if each.topic in mine)
            decision = Decision(way, Renewed(holder, known, tuple(since), (), awaits), unheard.union(tried))
            return decision if awaits else self.repeats.marked(decision, request, holder)
        if asked is None:
            if not mine and holder not in self._registry.leaving():
                raise self._no_member(holder)
            return self.repeats.marked(Decision(way, Done(member=True), unheard), request, holder)
        return Decision(
            way,
            Renewed(
                holder,
                tuple(each for each in asked if each.topic in mine),
                None,
                tuple(self._whys(holder, (each.topic for each in asked if each.topic not in mine), now)),
            ),
            unheard,
        )

    def _no_member(self, holder: Holder) -> Refused:
        whys = [Out.WORDS[why] for why in self._registry.departures.whys(holder)]
        return Refused(
            Code.UNKNOWN_MEMBER,
            f"{holder.ip}:{holder.port} is no member of anything{': ' if whys else ''}{', '.join(whys)}",
            "subscribe again",
        )

    def _whys(self, holder: Holder, topics: Iterable[int], now: float) -> Iterator[tuple[int, str]]:
        """Why a member is out of topics, where that is remembered."""
        for topic in topics:
            known = self._registry.numbered(topic)
            why = self._registry.departures.why(topic, known.name if known else "", holder, now)
            if why is not None:
                yield topic, why

    def _drain(self, request: Request, way: Way, now: float) -> Decision:
        way.caller.require_any("subscribe")
        holder = holder_of(request, way)
        self._late.leaves(request, way, now)
        patience = PATIENCE if (told := request.fields["patience_ms"]) is None else told
        leaving = self._registry.drain((holder.ip, holder.port), request.client, now, patience / 1000)
        answer = Drained(holder, request.fields, late=now >= leaving.deadline)
        return Decision(way, answer, leaving.topics)

    def _goodbye(self, request: Request, way: Way, now: float) -> Decision:
        way.caller.require_any("subscribe")
        holder = holder_of(request, way)
        self._late.leaves(request, way, now)
        changed = self._registry.goodbye((holder.ip, holder.port), request.client)
        self.reports.book(holder, request.fields, now)
        # A repeated one changes nothing, but what the first one changed may not be in force yet.
        return Decision(way, Done(), frozenset(changed) | self._ledger.topics(holder))

    def _sent(self, request: Request, way: Way, now: float) -> Decision:
        rows: list[Sent] = []
        gone: list[int] = []
        for row in request.fields["sent"]:
            topic = self._registry.numbered(row.topic)
            if topic is not None:
                way.caller.require(topic.name, "publish")
                rows.append(row)
            else:
                # Shorter than the row that it answers.
                gone.append(row.topic)
        for row in rows:
            self._ledger.said(
                request.fields["publisher"], row, ip=way.caller.ip, began=self._clock.when(row.since),
                final=bool(request.fields["final"]), now=now,
            )  # fmt: skip
        fields: dict[str, Any] = {"heartbeat_ms": self._timing["heartbeat_ms"], "life": self._life}
        fields |= {"gone": gone} if gone else {}
        sizes = self._sizes(list(dict.fromkeys(row.topic for row in rows)))
        # Where there is no room for it the next time has some.
        fits = len(encode_ok(way.request_id, **fields, **sizes)) <= way.room
        return Decision(way, Done({**fields, **sizes} if fits else fields))

    def _return_address(self, request: Request, way: Way, now: float) -> Decision:
        way.caller.require_any("publish")
        if self._returns is None:
            raise Refused(Code.UNKNOWN_OPERATION, "this broker sends no replies on", "")
        address = self._returns(way.caller.ip, request.fields["port"], way.asked)
        lifetime = LIFETIME * 1000
        return Decision(way, Done({"address": address, "lifetime_ms": lifetime, "probes": PROBE_VERSION_1}))
