"""The client's side of the control protocol: what to send, when to repeat it, what an answer means.

Sans-IO: bytes and ``now`` (seconds of any clock that never steps) come in, datagrams and events go
out. A shell calls, in this order and whenever it likes:

    receive_datagram(data, now)   for each datagram from the broker
    handle_timer(now)             when get_timer() says so
    datagrams_to_send(now)        and sends them
    next_event()                  until it gives None

Rules: a request is repeated after ``control.RETRY_AFTER`` and fails with :class:`NoAnswer` after the
last; heartbeats go as long as there is a membership, each with fresh counts in place of one that is
still unanswered; a broker that does not know this member any more is subscribed to again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tempos import _abi, control
from tempos.control import Received
from tempos.errors import ControlRefused, NoAnswer, WireError
from tempos.model import Framing, Quality, Topic

#: Seconds between heartbeats are never fewer than this, whatever a broker asks for.
MIN_HEARTBEAT = 0.02
_U32 = 0xFFFFFFFF


class Counts(Protocol):
    """Where the counts of a heartbeat come from."""

    def report(self) -> Sequence[Received]:
        """What arrived, as of now."""
        ...

    def acknowledge(self, rows: Sequence[Received]) -> None:
        """The broker has these rows."""
        ...


class NoCounts:
    """For a client that receives nothing."""

    def report(self) -> Sequence[Received]:
        return ()

    def acknowledge(self, rows: Sequence[Received]) -> None:
        return


@dataclass(frozen=True, slots=True)
class Answered:
    """A request was answered: ``fields`` of the reply, as in the table ``control.OPERATIONS``."""

    request: int
    op: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """A request was refused, or never answered."""

    request: int
    op: str
    error: ControlRefused | NoAnswer


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The endpoint is a member. ``renewed``: again, because the broker had forgotten it."""

    request: int
    topic: Topic
    group: str
    epoch: int
    renewed: bool


@dataclass(frozen=True, slots=True)
class RenewalFailed:
    """A broker that had forgotten this member does not take it back; it will be asked again."""

    topic: str
    error: ControlRefused | NoAnswer


@dataclass(frozen=True, slots=True)
class BrokerChanged:
    """Another instance of the broker answers now."""

    instance: int | str


@dataclass(frozen=True, slots=True)
class BrokerSilent:
    """No heartbeat was answered for ``seconds``, longer than the lease."""

    seconds: float


@dataclass(frozen=True, slots=True)
class BrokerBack:
    """A silent broker answers again, after ``seconds``."""

    seconds: float


SessionEvent = Answered | Failed | Subscribed | RenewalFailed | BrokerChanged | BrokerSilent | BrokerBack


@dataclass(slots=True)
class _Pending:
    """A request on its way. ``tries`` counts the datagrams sent, ``due`` is when the next one is."""

    op: str
    datagram: bytes
    started: float
    due: float
    tries: int = 1
    membership: _Membership | None = None
    rows: Sequence[Received] = ()


@dataclass(frozen=True, slots=True)
class _Membership:
    """What to ask for to become this member again."""

    topic: str
    group: str | None


class ControlSession:
    """One client at one broker.

    ``client`` is a random u64 chosen at the start of the client, ``broker`` names the broker's control
    address in error texts, ``port`` is the UDP port on which this client receives data (0: none).
    """

    def __init__(self, *, client: int, broker: str, port: int = 0, counts: Counts | None = None) -> None:
        self._client = client
        self._broker = broker
        self._port = port
        self._counts: Counts = counts if counts is not None else NoCounts()
        self._next_id = client & _U32
        self._pending: dict[int, _Pending] = {}
        self._outgoing: list[bytes] = []
        self._events: deque[SessionEvent] = deque()
        self._memberships: dict[_Membership, None] = {}
        self._instance: int | str | None = None
        self._lease = 10.0
        self._interval = 2.5
        self._heartbeat_at: float | None = None
        self._renew_at: float | None = None
        self._last_answer = 0.0
        self._silent = False
        #: Datagrams that were no reply of this protocol, or an answer without what it must hold.
        self.malformed = 0
        #: Replies to nothing that is asked: repeated ones, late ones.
        self.unmatched = 0

    # What a client asks

    def ask(self, op: str, now: float, **fields: Any) -> int:
        """Begin a request of ``control.OPERATIONS``; returns its id, which the events name."""
        return self._begin(op, now, fields)

    def subscribe(self, topic: str, group: str | None, now: float) -> int:
        """Ask to become a member; the answer is a :class:`Subscribed`, and heartbeats begin with it."""
        return self._subscribe(_Membership(topic, group), now)

    def goodbye(self, now: float) -> int:
        """Leave everything and tell the final counts. No heartbeat and no renewal follows."""
        self._memberships.clear()
        self._heartbeat_at = self._renew_at = None
        self._pending.clear()
        *ahead, rest = _pages(self._counts.report())
        # Only one datagram can say goodbye; what does not fit beside it goes ahead.
        for rows in ahead:
            self._begin("heartbeat", now, {"port": self._port, "received": rows}, rows=rows)
        return self._begin("goodbye", now, {"port": self._port, "received": rest}, rows=rest)

    def forget(self, request: int) -> None:
        """Nobody waits for this request any more."""
        self._pending.pop(request, None)

    # What the shell calls

    def receive_datagram(self, data: bytes, now: float) -> None:
        try:
            reply = control.decode_reply(data)
        except WireError:
            self.malformed += 1
            return
        pending = self._pending.get(reply.id)
        if pending is None:
            self.unmatched += 1
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
        membership: _Membership | None = None,
        rows: Sequence[Received] = (),
    ) -> int:
        self._next_id = request = (self._next_id + 1) & _U32
        datagram = control.encode_request(op, request, self._client, **fields)
        due = now + control.RETRY_AFTER[0]
        self._pending[request] = _Pending(op, datagram, now, due, membership=membership, rows=rows)
        self._outgoing.append(datagram)
        return request

    def _repeat(self, request: int, pending: _Pending, now: float) -> None:
        if pending.tries < len(control.RETRY_AFTER):
            pending.due = now + control.RETRY_AFTER[pending.tries]
            pending.tries += 1
            self._outgoing.append(pending.datagram)
            return
        del self._pending[request]
        error = NoAnswer(
            f"{pending.op}: no answer from the broker at {self._broker} after {pending.tries} tries in "
            f"{now - pending.started:.1f} s: is it running there, and is UDP let through?"
        )
        self._on_no_answer(request, pending, error, now)

    def _subscribe(self, membership: _Membership, now: float) -> int:
        fields = {"topic": membership.topic, "port": self._port, "group": membership.group}
        return self._begin("subscribe", now, fields, membership)

    def _renew(self, now: float) -> None:
        self._renew_at = None
        asked = {pending.membership for pending in self._pending.values()}
        for membership in self._memberships:
            if membership not in asked:
                self._subscribe(membership, now)

    def _heartbeat(self, now: float) -> None:
        self._heartbeat_at = now + self._interval
        for request in [r for r, pending in self._pending.items() if pending.op == "heartbeat"]:
            del self._pending[request]
        for rows in _pages(self._counts.report()):
            self._begin("heartbeat", now, {"port": self._port, "received": rows}, rows=rows)
        silence = now - self._last_answer
        if silence > self._lease and not self._silent:
            self._silent = True
            self._events.append(BrokerSilent(silence))

    # Answers

    def _answered(self, now: float) -> None:
        if self._silent:
            self._silent = False
            self._events.append(BrokerBack(now - self._last_answer))
        self._last_answer = now

    def _on_ok(self, request: int, pending: _Pending, fields: Mapping[str, Any], now: float) -> None:
        if "instance" in fields:
            self._see_instance(fields["instance"])
        self._counts.acknowledge(pending.rows)
        self._events.append(Answered(request, pending.op, fields))

    def _on_heartbeat(self, request: int, pending: _Pending, fields: Mapping[str, Any], now: float) -> None:
        self._counts.acknowledge(pending.rows)

    def _on_subscribed(self, request: int, pending: _Pending, fields: Mapping[str, Any], now: float) -> None:
        membership = pending.membership
        assert membership is not None
        topic = topic_of(fields)
        group, epoch = fields.get("group"), fields.get("epoch")
        lease, interval = _seconds(fields, "lease_ms"), _seconds(fields, "heartbeat_ms")
        if not isinstance(group, str) or type(epoch) is not int:
            raise WireError("subscribe: an answer without group and epoch")
        self._see_instance(fields.get("instance"))
        renewed = membership in self._memberships
        self._memberships[membership] = None
        self._lease = lease
        self._interval = max(MIN_HEARTBEAT, interval)
        if self._heartbeat_at is None or renewed:
            self._heartbeat_at = now + self._interval
        self._events.append(Subscribed(request, topic, group, epoch, renewed))

    def _see_instance(self, instance: object) -> None:
        if not isinstance(instance, (int, str)):
            raise WireError("an answer without the broker's instance")
        if self._instance is not None and instance != self._instance:
            self._events.append(BrokerChanged(instance))
        self._instance = instance

    def _on_refused(self, request: int, pending: _Pending, error: ControlRefused, now: float) -> None:
        if pending.op == "heartbeat" and error.code == control.Code.UNKNOWN_MEMBER:
            if self._renew_at is None:
                self._renew(now)
        elif pending.membership in self._memberships:
            self._events.append(RenewalFailed(pending.membership.topic, error))
            self._renew_at = now + self._interval
        else:
            self._events.append(Failed(request, pending.op, error))

    def _on_no_answer(self, request: int, pending: _Pending, error: NoAnswer, now: float) -> None:
        if pending.membership in self._memberships:
            self._events.append(RenewalFailed(pending.membership.topic, error))
            self._renew_at = now
        else:
            self._events.append(Failed(request, pending.op, error))


_ON_OK = {"subscribe": ControlSession._on_subscribed, "heartbeat": ControlSession._on_heartbeat}


def topic_of(fields: Mapping[str, Any]) -> Topic:
    """The topic an answer tells; raises :class:`WireError` if there is none that can be used."""
    told: Any = fields.get("topic")
    try:
        topic = Topic(
            id=told["id"],
            name=told["name"],
            quality=Quality(told["class"]),
            priority=told["priority"],
            framing=Framing(told["framing"]),
        )
    except (TypeError, KeyError, ValueError) as error:
        raise WireError(f"an answer without a usable topic: {error!r}") from error
    if type(topic.id) is not int or not _abi.TOPIC_MIN <= topic.id <= _abi.TOPIC_MAX:
        raise WireError("an answer with a topic id that no topic can have")
    if not isinstance(topic.name, str) or type(topic.priority) is not int:
        raise WireError("an answer without a usable topic")
    return topic


def _seconds(fields: Mapping[str, Any], name: str) -> float:
    value = fields.get(name)
    if type(value) is not int or value <= 0:
        raise WireError(f"an answer without a usable {name}")
    return value / 1000


def _pages(rows: Sequence[Received]) -> list[list[Received]]:
    """Rows split so that each page fits a control datagram; at least one page, which may be empty."""
    pages: list[list[Received]] = [[]]
    room = _PAGE_ROOM
    for row in rows:
        # Array, topic, epoch, the longest count, and the group with its length.
        size = 1 + 2 + 2 + 9 + 3 + len(row.group.encode())
        if size > room:
            pages.append([])
            room = _PAGE_ROOM
        pages[-1].append(row)
        room -= size
    return pages


#: What a request leaves for rows: its map, version, id, operation, client, port and the list's head.
_PAGE_ROOM = control.MAX_DATAGRAM - 80
