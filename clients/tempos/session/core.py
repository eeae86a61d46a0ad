"""The client's side of the control protocol: what to send, when to repeat it, what an answer means.

Sans-IO: bytes and ``now`` (seconds of any clock that never steps) come in, datagrams and events go
out. A shell calls, in this order and whenever it likes:

    receive_datagram(data, now)   for each datagram from the broker
    handle_timer(now)             when get_timer() says so
    datagrams_to_send(now)        and sends them
    next_event()                  until it gives None

Rules: a request is repeated after ``control.RETRY_AFTER`` and fails with :class:`NoAnswer` after the
last, each time signed anew where a key is given; heartbeats go as long as anything is subscribed to, each
with fresh counts in place of one that is still unanswered, and ask what is new of the memberships; what the
broker does not have this member in any more is asked for again, until it does; a drain is repeated, with
new counts, until answered.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tempos import auth, control
from tempos._abi import DATA_PORT
from tempos.errors import ControlRefused, NoAnswer, WireError
from tempos.names import is_filter, matches
from tempos.session.events import (
    Accepted,
    Answered,
    BrokerBack,
    BrokerChanged,
    BrokerSilent,
    Failed,
    Forgotten,
    InForce,
    Joined,
    Listed,
    ProofAsked,
    RenewalFailed,
    SessionEvent,
    Subscribed,
    Unheard,
    failures_of,
    seconds_of,
)
from tempos.session.outstanding import PATIENT, Outstanding
from tempos.session.parts import Counts, NoCounts, Pending
from tempos.session.roll import News, Roll
from tempos.session.rows import in_requests

#: Seconds between heartbeats are never fewer than this, whatever a broker asks for.
MIN_HEARTBEAT = 0.02
#: Seconds between two requests of a drain, each with newer counts: the first few come sooner, for most
#: drains are over at once. How much longer than its patience one waits for the last answer.
DRAIN_AGAIN, DRAIN_SOONER = 0.05, 0.01
DRAIN_GRACE = 1.0
#: Pages of counts that go ahead of one request of a drain.
PAGES_AHEAD = 16
#: Seconds between two questions for what is new, where that is awaited: at first, and at most.
LOOK_SOON, LOOK_AGAIN = 0.01, 0.25
#: Seconds at least between two such questions for the sake of datagrams that nobody knows.
LOOK_APART = 0.05
#: Signed requests of a drain whose answer may still be on its way.
KEPT_NONCES = 32
#: Of the seconds that all tries of a request take: it has so much, however often there is another way.
PATIENCE = 0.9
#: Seconds without an answer until the broker counts as one that does not.
SILENT_AFTER = sum(control.RETRY_AFTER[:PATIENT])


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
        self.client = client
        self._broker = broker
        self._port = port
        self._counts: Counts = counts if counts is not None else NoCounts()
        self._pending = Outstanding(client, signer)
        self._events: deque[SessionEvent] = deque()
        #: What is subscribed to, names and filters, each with its group.
        self._wanted: dict[str, str | None] = {}
        self._roll = Roll()
        #: Of what is wanted: that which is to be asked for again.
        self._again: dict[str, None] = {}
        #: Topics that were lost, by name, and have not come back.
        self._lost: set[str] = set()
        #: Requests to subscribe that were answered, and whose topics are not all in force yet.
        self._joining: list[int] = []
        self._look_at: float | None = None
        self._look_after, self._looked_at = LOOK_SOON, -LOOK_APART
        self._subscribed_at = 0.0
        #: What this proves with that it receives at its port; b"": it asks for that.
        self._proof = b""
        self.instance: int | str | None = None
        #: The brokers of a fleet that this takes events of, by number; None: of this one alone.
        self.hears: Sequence[int] | None = None
        self._lease, self._interval = 10.0, 2.5
        self._heartbeat_at: float | None = None
        self._renew_at: float | None = None
        self._last_answer, self._asked = 0.0, math.inf  # The latter: since when heartbeats have had none.
        self._silent = self._unanswered = self._unheard = False
        self.has_given_up = False  # A subscription, unanswered: the broker may have taken it.
        # Where this was a member, as long as the broker may not know that it is elsewhere now.
        self._former: list[tuple[str, int]] = []
        #: Why heartbeats are refused, while they are.
        self._refused = ""
        #: Datagrams that were no reply of this protocol, or an answer without what it must hold.
        self.malformed = 0
        #: Replies to nothing that is asked (repeated ones, late ones), and without the signature they need.
        self.unmatched = self.unsigned = 0
        self.data_port = DATA_PORT

    # What a client asks

    def ask(self, op: str, now: float, **fields: Any) -> int:
        """Begin a request of ``control.OPERATIONS``; returns its id, which the events name."""
        return self._pending.begin(op, now, fields, roomy=op in ("replay", "fleet"))

    def subscribe(self, wanted: str | Sequence[str], group: str | None, now: float) -> int:
        """Ask to become a member of topics by their names, and of all that match filters, now and later.

        As many as fit a request: :func:`tempos.session.rows.in_requests`. Each membership is told by a
        :class:`Subscribed`, and when all that there are stand, :class:`Joined`; heartbeats begin.
        """
        return self._subscribe([wanted] if isinstance(wanted, str) else list(wanted), group, now)

    def unsubscribe(self, wanted: str, now: float) -> int | None:
        """Leave a topic, or what matches a filter, as it was subscribed to; None if it was not.

        What is wanted otherwise, too, stays. What still arrives is told by heartbeats.
        """
        if wanted not in self._wanted:
            return None
        group = self._wanted.pop(wanted)
        self._again.pop(wanted, None)
        self._roll.drop([name for name in self._roll.names if not self.wants(name)])
        return self._pending.begin("unsubscribe", now, {"topic": wanted, "port": self._port, "group": group})

    @property
    def topics(self) -> list[str]:
        """The topics that this is a member of, by name."""
        return self._roll.names

    @property
    def is_subscribed(self) -> bool:
        """Whether there is anything to leave: a subscription, or an account that may not be told whole."""
        return self._heartbeat_at is not None

    def wants(self, name: str) -> bool:
        """Whether this is subscribed to the topic of this name, by itself or by a filter."""
        return name in self._wanted or any(matches(each, name) for each in self._wanted if is_filter(each))

    @property
    def broker_leaves(self) -> bool:
        """Whether the broker has said that it is about to leave its fleet."""
        return self._roll.leaves

    @property
    def interval(self) -> float:
        """Seconds between two heartbeats."""
        return self._interval

    @property
    def is_unanswered(self) -> bool:
        """Whether the broker does not answer, however often it is asked."""
        return self._unanswered

    def repeat(self, now: float) -> None:
        """Ask at once again what is unanswered: there is another way to the broker."""
        self._unanswered, self._asked = False, math.inf
        for pending in self._pending.values():
            pending.due = min(pending.due, now)

    def moved(self, port: int, former: tuple[str, int] | None, why: str, now: float) -> None:
        """The broker is to send elsewhere, or is asked elsewhere: every membership is asked for again.

        ``port``: where data is received now; ``former``: address and port where it was, if it was elsewhere.
        """
        self._port, self._proof = port, b""
        if former is not None and former not in self._former:
            self._former = [*self._former, former][-control.MAX_FORMER :]
        self._drop_heartbeats()
        self._pending.at_port(port)
        self._counts.tell_again()
        self._ask_again(self._wanted)
        self._lose({name: why for name in self._roll.clear() if name not in self._lost}, now)
        self._renew(now)

    def look(self, now: float) -> None:
        """Find out soon what is new: something came of a topic of which this knows to be no member."""
        if self._look_at is None:
            self._look_at = max(now, self._looked_at + LOOK_APART)

    def goodbye(self, now: float) -> int:
        """Leave everything and tell the final counts. No heartbeat and no renewal follows."""
        self._leave()
        # These counts are the last ones, and this may be the first that another life of the broker hears.
        self._counts.tell_again()
        *ahead, rest = self._counts.report()
        # Only one datagram can say goodbye; what does not fit beside it goes ahead.
        for page in ahead:
            self._tell("heartbeat", now, page, {"since": ()})
        return self._tell("goodbye", now, rest)

    def drain(self, now: float, patience: float) -> int:
        """Leave everything and go on telling counts until the broker says that nothing is on its way.

        ``patience``: seconds that the broker may wait for that. No heartbeat and no renewal follows.
        """
        self._leave()
        self._counts.tell_again()
        fields = {"port": self._port, "received": [], "patience_ms": round(patience * 1000)}
        self._pending.outgoing.clear()
        request = self._pending.begin("drain", now, fields)
        pending = self._pending[request]
        pending.until = now + patience + DRAIN_GRACE
        # Made only for its id: what is sent has the counts.
        self._pending.outgoing.clear()
        self._drain_again(request, pending, now)
        return request

    def _leave(self) -> None:
        self._wanted.clear()
        self._again.clear()
        self._roll.clear()
        self._heartbeat_at = self._renew_at = self._look_at = None
        self._pending.clear()

    def _drain_again(self, request: int, pending: Pending, now: float) -> None:
        pending.due = now + (DRAIN_SOONER if now - pending.started < DRAIN_AGAIN else DRAIN_AGAIN)
        pending.tries += 1
        patience = max(0, round((pending.until or now) - DRAIN_GRACE - pending.started, 3))
        *ahead, rest = self._counts.report()
        # What does not fit beside the drain goes ahead, some of it at a time: more once that was answered.
        if not any(each.op == "heartbeat" for each in self._pending.values()):
            for page in ahead[:PAGES_AHEAD]:
                self._tell("heartbeat", now, page, {"since": ()})
        pending.told = rest
        pending.datagram = control.encode_request(
            "drain", request, self.client, port=self._port, **self._for_whom(), **rest,
            patience_ms=round(patience * 1000),
        )  # fmt: skip
        del pending.nonces[:-KEPT_NONCES]
        self._pending.put(pending, now)

    def forget(self, request: int) -> None:
        """Nobody waits for this request any more."""
        self.has_given_up |= (
            pending := self._pending.pop(request, None)
        ) is not None and pending.op == "subscribe"

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
                self.unsigned += 1
                self._pending.hear_unsigned(data)
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
        if self._pending.signs_otherwise(pending, reply, time_ms):
            self._answered(now)
            self._repeat(reply.id, pending, now)
            return
        if reply.error is not None and reply.error.code in control.Code.NOT_YET:
            # The next broker is to answer; or this one, once it has been given the proof that is on its way.
            pending.last_word = f" The last one said: {reply.error}"
            self._answered(now)
            if len(reply.proof) == control.PROOF_BYTES:
                self._events.append(ProofAsked())
                self.data_port = reply.data_port
                self._pending.give(reply.id, reply.proof, now)
            return
        if reply.error is not None:
            self._pending.answered(reply.id, pending, now)
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
        self._pending.answered(reply.id, pending, now)
        self._answered(now)

    def prove(self, client: int, proof: bytes, now: float) -> bool:
        """What came to the data socket and proves that this receives there; False: it is somebody else's."""
        if client != self.client:
            return False
        self._proof = proof
        for request in self._pending:
            self._pending.give(request, proof, now)
        return True

    @property
    def opens_way(self) -> bool:
        """Whether a keep-alive is to go to ``data_port`` before what is to be sent; asked once."""
        return self._pending.take_opens_way()

    def datagrams_to_send(self, now: float) -> list[bytes]:
        """What is to be sent now, each a datagram to the broker's control port."""
        self.handle_timer(now)
        return self._pending.take()

    def get_timer(self) -> float | None:
        """When :meth:`handle_timer` wants to be called, or None."""
        times = [pending.due for pending in self._pending.values()]
        times += [at for at in (self._heartbeat_at, self._renew_at, self._look_at) if at is not None]
        return min(times, default=None)

    def handle_timer(self, now: float) -> None:
        for request, pending in list(self._pending.items()):
            if pending.due <= now:
                self._repeat(request, pending, now)
        if self._renew_at is not None and self._renew_at <= now:
            self._renew(now)
        if self._heartbeat_at is not None and self._heartbeat_at <= now:
            self._heartbeat(now)
        if self._look_at is not None and self._look_at <= now:
            self._ask_for_more(now)

    def next_event(self) -> SessionEvent | None:
        return self._events.popleft() if self._events else None

    # Requests

    def _tell(
        self,
        op: str,
        now: float,
        page: Mapping[str, Any],
        beside: Mapping[str, Any] | None = None,
        *,
        roomy: bool = False,
    ) -> int:
        fields = {"port": self._port, **self._for_whom(), **page, **(beside or {})}
        return self._pending.begin(op, now, fields, told=page, roomy=roomy)

    def _for_whom(self) -> dict[str, Any]:
        """Whose account counts are for: they may come to a broker that has begun anew and just let us in."""
        whom: dict[str, Any] = {"instance": self.instance} if isinstance(self.instance, int) else {}
        whom |= {} if self.hears is None else {"hears": self.hears}
        return {**whom, "former": self._former} if self._former else whom

    def _repeat(self, request: int, pending: Pending, now: float) -> None:
        if pending.until is not None and now < pending.until:
            self._drain_again(request, pending, now)
            return
        tries, least = len(control.RETRY_AFTER), PATIENCE * sum(control.RETRY_AFTER)
        if pending.until is None and (pending.tries < tries or now - pending.went_on < least):
            pending.due = now + control.RETRY_AFTER[min(pending.tries, tries - 1)]
            pending.tries += 1
            self._unanswered |= pending.tries > PATIENT or now - self._asked > SILENT_AFTER
            self._pending.put(pending, now)
            return
        del self._pending[request]
        self._unanswered = True
        error = pending.no_answer(self._broker, now)
        self._on_no_answer(request, pending, error, now)

    def _subscribe(self, wanted: list[str], group: str | None, now: float, *, again: bool = False) -> int:
        fields = {
            "topics": wanted, "port": self._port, "group": group, "since": self._roll.since,
            "former": self._former or None, "proof": self._proof, "hears": self.hears,
        }  # fmt: skip
        request = self._pending.begin("subscribe", now, fields, roomy=True)
        pending = self._pending[request]
        pending.wanted, pending.group, pending.again = tuple(wanted), group, again
        return request

    def _renew(self, now: float) -> None:
        self._renew_at = None
        asked = {each for pending in self._pending.values() for each in pending.wanted}
        groups: dict[str | None, list[str]] = {}
        for each in self._again:
            if each not in asked:
                groups.setdefault(self._wanted[each], []).append(each)
        for group, wanted in groups.items():
            for some in in_requests(wanted):
                self._subscribe(some, group, now, again=True)

    def _lose(self, gone: Mapping[str, str], now: float, words: Mapping[str, str] | None = None) -> None:
        """The broker does not have this member in these topics, and says why, if it can."""
        gone = {name: why for name, why in gone.items() if self.wants(name)}
        if not gone:
            return
        self._events.append(Forgotten(gone, words or {}))
        self._lost |= gone.keys()
        # Of the others the broker knows that they are wanted, and makes us a member as soon as it can.
        ask = [name for name, why in gone.items() if why not in control.Out.BROKERS_TURN]
        self._ask_again(each for each in self._wanted if any(matches(each, name) for name in ask))
        if ask:
            self._renew(now)

    def _ask_again(self, wanted: Iterable[str]) -> None:
        self._again.update(dict.fromkeys(wanted))

    def _heartbeat(self, now: float) -> None:
        self._heartbeat_at, self._asked = now + self._interval, min(self._asked, now)
        self._unanswered |= now - self._asked > SILENT_AFTER
        self._drop_heartbeats()
        self._pending.opens_way = True
        first: dict[str, Any] = {"since": self._roll.since}
        for page in self._counts.report():
            self._tell("heartbeat", now, page, first)
            first = {"since": ()}
        silence = now - self._last_answer
        if silence > self._lease and not self._silent:
            self._silent = True
            self._events.append(BrokerSilent(silence))

    def _drop_heartbeats(self, *, listing: bool = False) -> None:
        """Newer ones take the place of those that are unanswered."""
        for request, pending in list(self._pending.items()):
            if pending.op == "heartbeat" and (pending.since or not listing):
                del self._pending[request]

    def _ask_for_more(self, now: float) -> None:
        """Ask what is new, with room for much."""
        self._look_at, self._looked_at = None, now
        self._drop_heartbeats(listing=True)
        self._tell("heartbeat", now, {"received": []}, {"since": self._roll.since}, roomy=True)

    # Answers

    def _answered(self, now: float) -> None:
        if self._silent:
            self._silent = False
            self._events.append(BrokerBack(now - self._last_answer))
        self._unanswered = False
        self._last_answer, self._asked = now, math.inf

    def _on_ok(self, request: int, pending: Pending, fields: Mapping[str, Any], now: float) -> None:
        self._see_instance(fields)
        if pending.told is not None:
            self._counts.acknowledge(pending.told, fields)
        self._events.append(Answered(request, pending.op, fields))

    def _on_heartbeat(self, request: int, pending: Pending, fields: Mapping[str, Any], now: float) -> None:
        assert pending.told is not None
        self._see_instance(fields)
        self._counts.acknowledge(pending.told, fields)
        told = pending.fields.get("former") or ()
        self._former = [each for each in self._former if each not in told]
        if self._refused:
            self._refused = ""
            self._events.append(Answered(request, pending.op, fields))
        unheard = fields.get("unheard", 0)
        if type(unheard) is int and bool(unheard) != self._unheard:
            self._unheard = bool(unheard)
            self._events.append(Unheard(unheard))
        if pending.since:
            self._listed(self._roll.take(fields, pending.since), pending, None, now)

    def _on_subscribed(self, request: int, pending: Pending, fields: Mapping[str, Any], now: float) -> None:
        lease, interval = seconds_of(fields, "lease_ms"), seconds_of(fields, "heartbeat_ms")
        failures = failures_of(fields, len(pending.wanted))
        clock = fields.get("clock")
        if not isinstance(fields.get("instance"), (int, str)):
            raise WireError("an answer without the broker's instance")
        news = self._roll.take(fields, pending.since)
        self._see_instance(fields)
        self._lease = lease
        self._interval = max(MIN_HEARTBEAT, interval)
        self._subscribed_at = now
        if self._heartbeat_at is None or pending.again:
            # What was got at a former place is told before its account is settled.
            self._heartbeat_at = now if self._former else now + self._interval
        for index, each in enumerate(pending.wanted):
            if index not in failures:
                self._wanted[each] = pending.group
                self._again.pop(each, None)
        if pending.again:
            self._events.append(Accepted(tuple(each for each in pending.wanted if each not in self._again)))
        for index, error in failures.items():
            self._on_failed(request, pending, (pending.wanted[index],), error, now)
        if not failures and not pending.again:
            self._joining.append(request)
            self._look_after = LOOK_SOON
        self._listed(news, pending, clock if type(clock) is int else None, now, request)

    def _listed(
        self, news: News | None, pending: Pending, clock: int | None, now: float, request: int = 0
    ) -> None:
        """Take in what is new of the memberships, and ask on until nothing is left to be told."""
        if news is None:
            # Another page has come before; what is new since then is asked for.
            if pending.wanted or self._joining:
                self._look_at = now
            return
        for row in (*news.come, *news.stay):
            if row in news.come or row.topic.name in self._lost:
                renewed = row.topic.name in self._lost
                self._lost.discard(row.topic.name)
                self._events.append(
                    Subscribed(request, row.topic, row.group, row.epoch, renewed, clock, *row[3:])
                )
            else:
                self._events.append(InForce(row.topic.id, *row[2:]))
        self._lose(news.gone, now, news.words)
        if not news.complete or news.gone:
            # What this is out of it may be in again, once the broker knows that it was heard.
            self._look_at = now
        elif len(self._roll) > self._roll.count:
            self._roll.begin_anew()
            self._look_at = now
        else:
            self._events.append(Listed(pending.started, self._roll.fleet))
            if self._joining and len(self._roll) < self._roll.count:
                self._look_at = now + self._look_after
                self._look_after = min(2 * self._look_after, LOOK_AGAIN)
            else:
                joined, self._joining = self._joining, []
                self._events.extend(Joined(each, len(self._roll)) for each in joined)

    def _see_instance(self, fields: Mapping[str, Any]) -> None:
        instance = fields.get("instance", self.instance)
        if "instance" in fields and not isinstance(instance, (int, str)):
            raise WireError("an answer without the broker's instance")
        if self.instance is not None and instance is not None and instance != self.instance:
            self._events.append(BrokerChanged(instance))
        self.instance = instance

    def _on_refused(self, request: int, pending: Pending, error: ControlRefused, now: float) -> None:
        if pending.op == "heartbeat" and error.code == control.Code.UNKNOWN_MEMBER:
            if pending.started < self._subscribed_at:
                # Of what this has become a member since, nothing is said.
                return
            gone = dict.fromkeys(self._roll.clear(), error.text)
            self._ask_again(self._wanted)
            self._lose({name: why for name, why in gone.items() if name not in self._lost}, now)
            self._renew(now)
        elif pending.op == "subscribe":
            self._on_failed(request, pending, pending.wanted, error, now)
        elif pending.op != "heartbeat" or str(error) != self._refused:
            # A heartbeat comes again, and is refused again for the same reason.
            self._refused = str(error) if pending.op == "heartbeat" else self._refused
            self._events.append(Failed(request, pending.op, error))

    def _on_failed(
        self, request: int, pending: Pending, wanted: Sequence[str], error: ControlRefused, now: float
    ) -> None:
        """What was to be subscribed to is refused: at first that is told, later it is asked for again."""
        if not pending.again:
            self._events.append(Failed(request, pending.op, error))
            return
        for each in wanted:
            if each in self._wanted:
                self._again[each] = None
                self._events.append(RenewalFailed(each, error))
        # Whom an operator keeps out would ask in vain for long.
        later = now + (self._lease if error.code == control.Code.KEPT_OUT else self._interval)
        self._renew_at = later if self._renew_at is None else min(self._renew_at, later)

    def _on_no_answer(self, request: int, pending: Pending, error: NoAnswer, now: float) -> None:
        if pending.again:
            self._events.extend(RenewalFailed(each, error) for each in pending.wanted if each in self._wanted)
            self._renew_at = now
            return
        if pending.op == "heartbeat" and self._joining:
            joining, self._joining = self._joining, []
            self._events.extend(Failed(each, "subscribe", error) for each in joining)
        self._events.append(Failed(request, pending.op, error))


_ON_OK = {"subscribe": ControlSession._on_subscribed, "heartbeat": ControlSession._on_heartbeat}
