"""The client's side of the control protocol: what to send, when to repeat it, what an answer means.

Sans-IO: bytes and ``now`` (seconds of any clock that never steps) come in, datagrams and events go
out. A shell calls, in this order and whenever it likes:

    receive_datagram(data, now)   for each datagram from the broker
    handle_timer(now)             when get_timer() says so
    datagrams_to_send(now)        and sends them
    next_event()                  until it gives None

Rules: a request is repeated after ``control.RETRY_AFTER`` and fails with :class:`NoAnswer` after the
last, each time signed anew where a key is given; heartbeats go as long as there is a membership, each
with fresh counts in place of one that is still unanswered; a topic that the broker does not have this
member in any more is asked for again, until it does; a drain is repeated, with new counts, until answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from tempos import auth, control
from tempos.errors import ControlRefused, NoAnswer, WireError
from tempos.session.events import (
    Answered,
    BrokerBack,
    BrokerChanged,
    BrokerSilent,
    Failed,
    Forgotten,
    RenewalFailed,
    SessionEvent,
    Subscribed,
    seconds_of,
    topic_of,
    whys_of,
)
from tempos.session.parts import Counts, Membership, NoCounts, Pending, Place

#: Seconds between heartbeats are never fewer than this, whatever a broker asks for.
MIN_HEARTBEAT = 0.02
#: Seconds between two requests of a drain, each with newer counts: the first few come sooner, for most
#: drains are over at once. How much longer than its patience one waits for the last answer.
DRAIN_AGAIN, DRAIN_SOONER = 0.05, 0.01
DRAIN_GRACE = 1.0
#: Signed requests of a drain whose answer may still be on its way.
KEPT_NONCES = 32
_U32 = 0xFFFFFFFF


class ControlSession:
    """One client at one broker.

    ``client`` is a random u64 chosen at the start of the client, ``broker`` names the broker's control
    address in error texts, ``port`` is the UDP port on which this client receives data (0: none). With a
    ``signer`` every request is signed, and only signed replies are believed.
    """

    def __init__(
        self,
        *,
        client: int,
        broker: str,
        port: int = 0,
        counts: Counts | None = None,
        signer: auth.Signer | None = None,
    ) -> None:
        self._signer = signer
        self._client = client
        self._broker = broker
        self._port = port
        self._counts: Counts = counts if counts is not None else NoCounts()
        self._next_id = client & _U32
        self._pending: dict[int, Pending] = {}
        self._outgoing: list[bytes] = []
        self._events: deque[SessionEvent] = deque()
        self._memberships: dict[Membership, Place] = {}
        self._instance: int | str | None = None
        self._lease = 10.0
        self._interval = 2.5
        self._heartbeat_at: float | None = None
        self._renew_at: float | None = None
        self._last_answer = 0.0
        self._silent = False
        #: Why heartbeats are refused, while they are.
        self._refused = ""
        #: Datagrams that were no reply of this protocol, or an answer without what it must hold.
        self.malformed = 0
        #: Replies to nothing that is asked: repeated ones, late ones.
        self.unmatched = 0
        #: Replies without the signature they ought to have.
        self.unsigned = 0

    # What a client asks

    def ask(self, op: str, now: float, **fields: Any) -> int:
        """Begin a request of ``control.OPERATIONS``; returns its id, which the events name."""
        return self._begin(op, now, fields)

    def subscribe(self, topic: str, group: str | None, now: float) -> int:
        """Ask to become a member; the answer is a :class:`Subscribed`, and heartbeats begin with it."""
        return self._subscribe(Membership(topic, group), now)

    def unsubscribe(self, topic: str, now: float) -> int | None:
        """Leave one topic; None if this is no member of it. What still arrives is told by heartbeats."""
        for membership in self._memberships:
            if membership.topic == topic:
                del self._memberships[membership]
                fields = {"topic": topic, "port": self._port, "group": membership.group}
                return self._begin("unsubscribe", now, fields)
        return None

    def goodbye(self, now: float) -> int:
        """Leave everything and tell the final counts. No heartbeat and no renewal follows."""
        self._memberships.clear()
        self._heartbeat_at = self._renew_at = None
        self._pending.clear()
        # These counts are the last ones, and this may be the first that another life of the broker hears.
        self._counts.tell_again()
        *ahead, rest = self._counts.report()
        # Only one datagram can say goodbye; what does not fit beside it goes ahead.
        for page in ahead:
            self._tell("heartbeat", now, page)
        return self._tell("goodbye", now, rest)

    def drain(self, now: float, patience: float) -> int:
        """Leave everything and go on telling counts until the broker says that nothing is on its way.

        ``patience``: seconds that the broker may wait for that. No heartbeat and no renewal follows.
        """
        self._memberships.clear()
        self._heartbeat_at = self._renew_at = None
        self._pending.clear()
        self._counts.tell_again()
        fields = {"port": self._port, "received": [], "patience_ms": round(patience * 1000)}
        self._outgoing.clear()
        request = self._begin("drain", now, fields)
        pending = self._pending[request]
        pending.until = now + patience + DRAIN_GRACE
        # Made only for its id: what is sent has the counts.
        self._outgoing.clear()
        self._drain_again(request, pending, now)
        return request

    def _drain_again(self, request: int, pending: Pending, now: float) -> None:
        pending.due = now + (DRAIN_SOONER if now - pending.started < DRAIN_AGAIN else DRAIN_AGAIN)
        pending.tries += 1
        patience = max(0, round((pending.until or now) - DRAIN_GRACE - pending.started, 3))
        *ahead, rest = self._counts.report()
        # What does not fit beside the drain goes ahead; nobody waits for those answers.
        for page in ahead:
            self.forget(self._tell("heartbeat", now, page))
        pending.told = rest
        pending.datagram = control.encode_request(
            "drain", request, self._client, port=self._port, **self._for_whom(), **rest,
            patience_ms=round(patience * 1000),
        )  # fmt: skip
        del pending.nonces[:-KEPT_NONCES]
        self._put(pending)

    def forget(self, request: int) -> None:
        """Nobody waits for this request any more."""
        self._pending.pop(request, None)

    # What the shell calls

    def receive_datagram(self, data: bytes, now: float) -> None:
        nonce, time_ms = b"", 0
        if len(data) > control.MAX_DATAGRAM:
            self.malformed += 1
            return
        if self._signer is not None:
            try:
                nonce, time_ms, data = self._signer.open(data)
            except WireError:
                self._unsigned_reply(data)
                return
        try:
            reply = control.decode_reply(data)
        except WireError:
            self.malformed += 1
            return
        pending = self._pending.get(reply.id)
        if pending is None or (self._signer is not None and nonce not in pending.nonces):
            self.unmatched += 1
            return
        if reply.error is not None and self._follow_clock(reply.id, pending, reply.error, time_ms, now):
            return
        if reply.error is not None and reply.error.code == control.Code.STOPPING:
            # The next broker is to answer.
            pending.last_word = f" The last one said: {reply.error}"
            return
        if reply.error is not None:
            del self._pending[reply.id]
            self._answered(now)
            self._on_refused(reply.id, pending, reply.error, now)
            return
        assert reply.ok is not None
        try:
            _ON_OK.get(pending.op, ControlSession._on_ok)(self, reply.id, pending, reply.ok, now)
        except WireError:
            # As if it had not come: the request is repeated, and says NoAnswer in the end.
            self.malformed += 1
            return
        self._pending.pop(reply.id, None)
        self._answered(now)

    def datagrams_to_send(self, now: float) -> list[bytes]:
        """What is to be sent now, each a datagram to the broker's control port."""
        self.handle_timer(now)
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def get_timer(self) -> float | None:
        """When :meth:`handle_timer` wants to be called, or None."""
        times = [pending.due for pending in self._pending.values()]
        times += [at for at in (self._heartbeat_at, self._renew_at) if at is not None]
        return min(times, default=None)

    def handle_timer(self, now: float) -> None:
        for request, pending in list(self._pending.items()):
            if pending.due <= now:
                self._repeat(request, pending, now)
        if self._renew_at is not None and self._renew_at <= now:
            self._renew(now)
        if self._heartbeat_at is not None and self._heartbeat_at <= now:
            self._heartbeat(now)

    def next_event(self) -> SessionEvent | None:
        return self._events.popleft() if self._events else None

    # Requests

    def _begin(
        self,
        op: str,
        now: float,
        fields: Mapping[str, Any],
        membership: Membership | None = None,
        told: Mapping[str, Any] | None = None,
    ) -> int:
        self._next_id = request = (self._next_id + 1) & _U32
        datagram = control.encode_request(op, request, self._client, **fields)
        due = now + control.RETRY_AFTER[0]
        pending = Pending(op, datagram, now, due, membership=membership, told=told)
        self._pending[request] = pending
        self._put(pending)
        return request

    def _tell(self, op: str, now: float, page: Mapping[str, Any]) -> int:
        return self._begin(op, now, {"port": self._port, **self._for_whom(), **page}, told=page)

    def _for_whom(self) -> dict[str, Any]:
        """Whose account counts are for: they may come to a broker that has begun anew and just let us in."""
        return {"instance": self._instance} if isinstance(self._instance, int) else {}

    def _put(self, pending: Pending) -> None:
        datagram = pending.datagram
        if self._signer is not None:
            datagram, nonce = self._signer.sign(datagram)
            pending.nonces.append(nonce)
        self._outgoing.append(datagram)

    def _repeat(self, request: int, pending: Pending, now: float) -> None:
        if pending.until is not None and now < pending.until:
            self._drain_again(request, pending, now)
            return
        if pending.until is None and pending.tries < len(control.RETRY_AFTER):
            pending.due = now + control.RETRY_AFTER[pending.tries]
            pending.tries += 1
            self._put(pending)
            return
        del self._pending[request]
        error = NoAnswer(
            f"{pending.op}: no answer from the broker at {self._broker} after {pending.tries} tries in "
            f"{now - pending.started:.1f} s: is it running there, and is UDP let through?" + pending.last_word
        )
        self._on_no_answer(request, pending, error, now)

    def _subscribe(self, membership: Membership, now: float) -> int:
        fields = {"topic": membership.topic, "port": self._port, "group": membership.group}
        return self._begin("subscribe", now, fields, membership)

    def _renew(self, now: float) -> None:
        self._renew_at = None
        asked = {pending.membership for pending in self._pending.values()}
        for membership, place in self._memberships.items():
            if place.lost and place.held_until <= now and membership not in asked:
                self._subscribe(membership, now)

    def _lose(self, gone: Mapping[Membership, str], now: float) -> None:
        """The broker does not have these memberships any more, and says why, if it can."""
        new = {each: why for each, why in gone.items() if not self._memberships[each].lost}
        for each, why in gone.items():
            place = self._memberships[each]
            place.lost = True
            if why != control.Out.KEPT_OUT:
                place.held_until = 0.0
        if new:
            self._events.append(Forgotten({each.topic: why for each, why in new.items()}))
        if new or (gone and self._renew_at is None):
            self._renew(now)

    def _heartbeat(self, now: float) -> None:
        self._heartbeat_at = now + self._interval
        for request in [r for r, pending in self._pending.items() if pending.op == "heartbeat"]:
            del self._pending[request]
        for page in self._counts.report():
            self._tell("heartbeat", now, page)
        silence = now - self._last_answer
        if silence > self._lease and not self._silent:
            self._silent = True
            self._events.append(BrokerSilent(silence))

    # Answers

    def _unsigned_reply(self, data: bytes) -> None:
        self.unsigned += 1
        try:
            reply = control.decode_reply(data)
        except WireError:
            return
        pending = self._pending.get(reply.id)
        if pending is not None and reply.error is not None:
            pending.last_word = f" An unsigned reply says: {reply.error}"

    def _follow_clock(
        self, request: int, pending: Pending, error: ControlRefused, time_ms: int, now: float
    ) -> bool:
        """Whether a request is asked again by the broker's clock; once, then a refusal is one."""
        if self._signer is None or error.code != control.Code.CLOCK or pending.clock_followed:
            return False
        pending.clock_followed = True
        self._signer.follow(time_ms)
        self._answered(now)
        self._repeat(request, pending, now)
        return True

    def _answered(self, now: float) -> None:
        if self._silent:
            self._silent = False
            self._events.append(BrokerBack(now - self._last_answer))
        self._last_answer = now

    def _on_ok(self, request: int, pending: Pending, fields: Mapping[str, Any], now: float) -> None:
        if "instance" in fields:
            self._see_instance(fields["instance"])
        if pending.told is not None:
            self._counts.acknowledge(pending.told, fields)
        self._events.append(Answered(request, pending.op, fields))

    def _on_heartbeat(self, request: int, pending: Pending, fields: Mapping[str, Any], now: float) -> None:
        assert pending.told is not None
        self._counts.acknowledge(pending.told, fields)
        if self._refused:
            self._refused = ""
            self._events.append(Answered(request, pending.op, fields))
        listed = fields.get("epochs")
        if not isinstance(listed, list):
            # A broker that does not say of what this is a member.
            return
        asked = {each.topic for each in pending.told.get("topics", ())}
        asked -= {row[0] for row in listed if isinstance(row, list) and row and type(row[0]) is int}
        whys = whys_of(fields)
        # Of what this has become a member since, nothing is said.
        self._lose(
            {each: whys.get(place.topic, "") for each, place in self._memberships.items()
             if place.topic in asked and place.since < pending.started}, now,
        )  # fmt: skip

    def _on_subscribed(self, request: int, pending: Pending, fields: Mapping[str, Any], now: float) -> None:
        membership = pending.membership
        assert membership is not None
        topic = topic_of(fields)
        group, epoch = fields.get("group"), fields.get("epoch")
        lease, interval = seconds_of(fields, "lease_ms"), seconds_of(fields, "heartbeat_ms")
        if not isinstance(group, str) or type(epoch) is not int:
            raise WireError("subscribe: an answer without group and epoch")
        self._see_instance(fields.get("instance"))
        renewed = membership in self._memberships
        self._memberships[membership] = Place(topic.id, now)
        self._lease = lease
        self._interval = max(MIN_HEARTBEAT, interval)
        if self._heartbeat_at is None or renewed:
            self._heartbeat_at = now + self._interval
        clock = fields.get("clock")
        self._events.append(
            Subscribed(request, topic, group, epoch, renewed, clock if type(clock) is int else None)
        )

    def _see_instance(self, instance: object) -> None:
        if not isinstance(instance, (int, str)):
            raise WireError("an answer without the broker's instance")
        if self._instance is not None and instance != self._instance:
            self._events.append(BrokerChanged(instance))
        self._instance = instance

    def _on_refused(self, request: int, pending: Pending, error: ControlRefused, now: float) -> None:
        if pending.op == "heartbeat" and error.code == control.Code.UNKNOWN_MEMBER:
            gone = {m: error.text for m, place in self._memberships.items() if place.since < pending.started}
            self._lose(gone, now)
        elif pending.membership in self._memberships:
            # Whatever it was asked for again for, it is no member now.
            place = self._memberships[pending.membership]
            place.lost = True
            if error.code == control.Code.KEPT_OUT:
                # When that is over a heartbeat's answer says; with many topics asking would be a flood.
                place.held_until = now + self._lease
            self._events.append(RenewalFailed(pending.membership.topic, error))
            self._renew_at = now + self._interval
        elif pending.op != "heartbeat" or str(error) != self._refused:
            # A heartbeat comes again, and is refused again for the same reason.
            self._refused = str(error) if pending.op == "heartbeat" else self._refused
            self._events.append(Failed(request, pending.op, error))

    def _on_no_answer(self, request: int, pending: Pending, error: NoAnswer, now: float) -> None:
        if pending.membership in self._memberships:
            self._events.append(RenewalFailed(pending.membership.topic, error))
            self._renew_at = now
        else:
            self._events.append(Failed(request, pending.op, error))


_ON_OK = {"subscribe": ControlSession._on_subscribed, "heartbeat": ControlSession._on_heartbeat}
