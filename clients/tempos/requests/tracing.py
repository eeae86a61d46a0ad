"""Probes as a publisher sends them, and what is known of their way when the reports have come.

A probe is an event of its publisher's: numbered, counted and told of like all others. Rules: times of two
machines are never subtracted, for their clocks differ by nobody knows how much; what went there and back is
measured by this machine's clock alone, and one way only where both ends have one clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tempos import _abi, wire
from tempos._awaitables import in_time
from tempos.encryption import Decryptor, Undecryptable
from tempos.errors import LocalError, TemposError, WireError
from tempos.model import Path, Topic
from tempos.requests import envelope, probe
from tempos.requests.ask import Asking, Sending

#: Seconds that reports are waited for where the caller does not say.
WITHIN = 1.0
_EXCHANGES = 3


@dataclass(frozen=True, slots=True)
class Report:
    """What one member says of a probe. Times in seconds; None: it cannot be known.

    ``ip`` as the member knows itself. ``round_trip``: from the probe to the report, by this machine's clock;
    ``inside``: of that, in the member, by its own. Where both ends have one clock: ``to_broker`` and
    ``from_broker``, known on the slow path only, ``in_broker`` (always, there), and ``one_way``, all of it.
    """

    group: str
    ip: str
    port: int
    epoch: int
    delivery_sequence: int
    path: Path | None
    round_trip: float
    inside: float
    one_way: float | None
    to_broker: float | None
    in_broker: float | None
    from_broker: float | None


@dataclass(frozen=True, slots=True)
class Trace:
    """A probe's way. ``round_trip``: to the broker's control port and back, in seconds.

    ``no_member``: the broker says that the topic has none. ``unread``: reports that could not be read, as
    those of an encrypted topic whose key is not here.
    """

    topic: Topic
    size: int
    publisher: int
    sequence: int
    sent_ns: int
    reports: tuple[Report, ...]
    round_trip: float | None
    no_member: bool
    unread: int


#: Whether these reports are all that is waited for.
Enough = Callable[[Sequence[Report]], bool]


@dataclass(slots=True)
class _Out:
    """A probe that is out."""

    token: bytes
    decryptor: Decryptor | None
    sent_ns: int
    sent: float
    marks: bool
    done: asyncio.Future[None]
    enough: Enough | None
    reports: list[Report] = field(default_factory=list)
    no_member: bool = False
    unread: int = 0


class Tracing:
    """The probes of one publisher."""

    def __init__(self, asking: Asking, publisher: Sending) -> None:
        self._asking = asking
        self._publisher = publisher
        self._out: dict[tuple[int, int], _Out] = {}

    async def trace(self, topic: str | Topic, timeout: float, enough: Enough | None) -> Trace:
        """See :meth:`tempos.Publisher.trace`."""
        if not timeout > 0:
            raise LocalError(f"reports cannot come within {timeout:g} s: give them more than 0")
        publisher = self._publisher
        publisher._open_socket()
        outlet, address = await self._asking.prepare(topic, timeout)
        if not outlet.is_event:
            raise LocalError(
                f"topic {outlet.topic.name!r} is raw: its datagrams have no header, so none can be told from "
                "events; tracing needs the framing event"
            )
        round_trip = await self._to_broker(timeout)
        self._asking.requests.on_report = self._take
        head = outlet.header_len + envelope.LENGTH
        length = min(probe.LENGTH, outlet.limit - head)
        publisher._fits(outlet, head + max(length, _abi.PROBE_LEN))
        marks, rest = probe.blank(length)
        if outlet.bodies:
            await publisher._send_now([(outlet, *outlet.take(publisher.id))])
        token, sequence, now_ns = self._asking.token(), outlet.sequence & 0xFFFFFFFF, time.time_ns()
        made = outlet.request(publisher.id, now_ns, envelope.request(address, token) + rest)
        datagram = probe.marked(_flagged(made), wire.body_at(made) + envelope.LENGTH, marks)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        out = _Out(token, outlet.decryptor, now_ns, time.perf_counter(), self._asking.marks, done, enough)
        key = outlet.id, sequence
        self._out[key] = out
        try:
            await publisher._send_now([(outlet, datagram, 1)])
            with suppress(asyncio.TimeoutError):
                await in_time(done, timeout)
        finally:
            del self._out[key]
        return Trace(
            outlet.topic, len(datagram), publisher.id, sequence, now_ns, tuple(out.reports), round_trip,
            out.no_member, out.unread,
        )  # fmt: skip

    async def _to_broker(self, timeout: float) -> float | None:
        """The shortest of a few exchanges with the broker's control port, seconds."""
        best = None
        with suppress(TemposError, asyncio.TimeoutError):
            link = await self._publisher._control()
            for _ in range(_EXCHANGES):
                began = time.perf_counter()
                await in_time(link.ask("hello"), timeout)
                took = time.perf_counter() - began
                best = took if best is None else min(best, took)
        return best

    def _take(self, wide: int, datagram: bytes, at: int) -> bool:
        """Whether a datagram, laid out as a narrow one, is for a probe that is out: `Requests.on_report`."""
        now = time.perf_counter()
        if len(datagram) < at + envelope.LENGTH or not datagram[_abi.OFFSET_VERSION_FLAGS] & _abi.FLAG_TRACE:
            return False
        narrow, _, _, epoch, publisher, sequence, delivery, sent_ns = _abi.EVENT_HEADER.unpack_from(datagram)
        out = self._out.get((wide or narrow, sequence))
        kind = envelope.ANSWERS.get(datagram[at])
        token = datagram[at + _abi.ENVELOPE_TOKEN : at + envelope.LENGTH]
        if out is None or publisher != self._publisher.id or token != out.token or kind is None:
            return False
        if kind == _abi.KIND_ERROR:
            out.no_member |= datagram[at + _abi.ENVELOPE_CODE] == _abi.ERROR_NO_MEMBER
            self._end(out)
            return True
        body = at + envelope.LENGTH
        try:
            marks = datagram[body : body + probe.MARKS_LEN]
            if out.decryptor is not None:
                datagram = out.decryptor.decrypt(probe.parted(datagram), time.time_ns())
                datagram = probe.marked(datagram, body, marks)
            told = probe.read(datagram[body:])
        except (WireError, Undecryptable):
            out.unread += 1
            return True
        if not any((told.group, delivery) == (each.group, each.delivery_sequence) for each in out.reports):
            out.reports.append(_report(out, told, epoch, delivery, sent_ns, now))
        if out.enough is not None and out.enough(out.reports):
            self._end(out)
        return True

    def _end(self, out: _Out) -> None:
        if not out.done.done():
            out.done.set_result(None)


def _flagged(request: bytes) -> bytes:
    """A request as a probe."""
    at = _abi.WIDE_FLAGS_AT if request[0] == _abi.WIDE else _abi.OFFSET_VERSION_FLAGS
    return request[:at] + bytes((request[at] | _abi.FLAG_TRACE,)) + request[at + 1 :]


def _report(out: _Out, told: probe.Told, epoch: int, delivery: int, answered_ns: int, now: float) -> Report:
    ours = probe.clock()
    slow = told.slow
    path = Path.SLOW if slow else Path.FAST if out.marks else None

    def between(later_ns: int, clock: bytes, earlier_ns: int, other: bytes) -> float | None:
        return (later_ns - earlier_ns) / 1e9 if slow and probe.are_one(clock, other) else None

    return Report(
        told.group, told.ip, told.port, epoch, delivery, path,
        round_trip=now - out.sent,
        inside=(answered_ns - told.received_ns) / 1e9,
        one_way=(told.received_ns - out.sent_ns) / 1e9 if probe.are_one(told.clock, ours) else None,
        to_broker=between(told.taken_ns, told.broker_clock, out.sent_ns, ours),
        in_broker=(told.left_ns - told.taken_ns) / 1e9 if slow else None,
        from_broker=between(told.received_ns, told.clock, told.left_ns, told.broker_clock),
    )  # fmt: skip


def as_fields(trace: Trace) -> dict[str, Any]:
    """As JSON has it."""
    return {
        "topic": {"id": trace.topic.id, "name": trace.topic.name},
        **{name: getattr(trace, name) for name in
           ("size", "publisher", "sequence", "sent_ns", "round_trip", "no_member", "unread")},
        "reports": [
            {
                **{name: getattr(each, name) for name in Report.__dataclass_fields__},
                "path": each.path.value if each.path else None,
            }
            for each in trace.reports
        ],
    }  # fmt: skip
