"""Requests that come after what their client asked later: nobody wishes any more what they ask.

A request is repeated until it is answered, and a network brings datagrams in any order. A `subscribe` that
comes when its client has left since, by goodbye, by unsubscribing or because it moved, would make a member of
somebody that is not there, for as long as a lease; an `unsubscribe` that comes when the client has subscribed
again since would take out who wants to be in. Clients count ids up: so it is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from tempos.control import U32, Code, Request
from tempos_broker.account.accounts import Holder
from tempos_broker.control.decisions import Way, holder_of
from tempos_broker.members.admission import Refused

#: Seconds that it is known: longer than copies come, the last of which is sent 6.2 s after the first.
KNOWN = 15.0
#: So many are known at most, the latest.
MOST = 16_384

#: Key, holder and topic ("": all of them) of what is known, and whether it is a leaving.
_Key: TypeAlias = tuple[str | None, Holder, str, bool]
#: The request's id, when it came, and where to the client went.
_Known: TypeAlias = tuple[int, float, tuple[str, int] | None]


def former(request: Request, way: Way) -> Iterator[tuple[str, int]]:
    """Where the client says that it was before, but for where it is."""
    here = (way.caller.ip, request.fields["port"])
    return (place for each in request.fields["former"] or () if (place := (each.ip, each.port)) != here)


class Late:
    """By which request clients came to a topic last, left it, or left a place."""

    def __init__(self) -> None:
        #: The latest of each, those that came last at the end.
        self._known: dict[_Key, _Known] = {}

    def comes(self, request: Request, way: Way, now: float, topic: str = "") -> None:
        """Raise :class:`Refused` for a `subscribe` that was sent before its client left; else it has come."""
        holder = holder_of(request, way)
        if (left := self._later((_who(way), holder, topic, True), request, now)) is not None:
            by, _, to = left
            # By one request a client can ask for a place and leave another one, and ask it when it is back.
            if by != request.id or (to is not None and to not in former(request, way)):
                what = f"topic {topic!r}" if topic else "this place"
                why = f"a later request of this client left {what}"
                raise Refused(Code.LATE, why, "count the ids of requests up")
        if topic:
            self._note((_who(way), holder, topic, False), (request.id, now, None))

    def leaves(self, request: Request, way: Way, now: float, topic: str = "") -> bool:
        """The client leaves where it is, or this topic (or filter) there; whether it has not come since."""
        who, holder = _who(way), holder_of(request, way)
        came = self._later((who, holder, topic, False), request, now)
        if came is not None and came[0] != request.id:
            return False
        self._note((who, holder, topic, True), (request.id, now, None))
        return True

    def moves(self, request: Request, way: Way, now: float) -> Iterator[tuple[str, int]]:
        """The client is not any more where it says that it was; these places, one after the other."""
        here = (way.caller.ip, request.fields["port"])
        for place in former(request, way):
            self._note((_who(way), Holder(*place, request.client), "", True), (request.id, now, here))
            yield place

    def _later(self, key: _Key, request: Request, now: float) -> _Known | None:
        """What is known there, if it is of this request or of a later one."""
        found = self._known.get(key)
        if found is None or now - found[1] > KNOWN or not _is_later(found[0], request.id):
            return None
        return found

    def _note(self, key: _Key, new: _Known) -> None:
        known = self._known
        if (before := known.pop(key, None)) is not None and _is_later(before[0], new[0]):
            # A copy of it, or an older one.
            new = (before[0], new[1], before[2])
        known[key] = new
        while len(known) > MOST or new[1] - next(iter(known.values()))[1] > KNOWN:
            del known[next(iter(known))]


def _is_later(one: int, than: int) -> bool:
    """Whether an id is the other one or was counted after it."""
    return (one - than) & U32 <= U32 // 2


def _who(way: Way) -> str | None:
    return None if way.caller.client is None else way.caller.client.id
