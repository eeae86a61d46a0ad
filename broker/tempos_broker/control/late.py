"""Copies of requests that come after what their client asked later: nobody wishes any more what they ask.

A request is repeated until it is answered, and a network brings datagrams in any order. A copy of a
`subscribe` that comes when its client has left since, by goodbye, by unsubscribing or because it moved, would
make a member of somebody that is not there, for as long as a lease. Clients count ids up: so it is told.
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

_Key: TypeAlias = tuple[str | None, Holder, str]


def former(request: Request, way: Way) -> Iterator[tuple[str, int]]:
    """Where the client says that it was before, but for where it is."""
    here = (way.caller.ip, request.fields["port"])
    return (place for each in request.fields["former"] or () if (place := (each.ip, each.port)) != here)


class Late:
    """Who has left which place, or which topic there, by which request."""

    def __init__(self) -> None:
        #: By key, holder and topic ("": all of them): the request's id, when it came, and where to.
        self._left: dict[_Key, tuple[int, float, tuple[str, int] | None]] = {}

    def leaves(self, request: Request, way: Way, now: float, topic: str = "") -> None:
        """The client leaves where it is, or this topic (or filter) there."""
        self._note((_who(way), holder_of(request, way), topic), (request.id, now, None))

    def moves(self, request: Request, way: Way, now: float) -> Iterator[tuple[str, int]]:
        """The client is not any more where it says that it was; these places, one after the other."""
        here = (way.caller.ip, request.fields["port"])
        for place in former(request, way):
            self._note((_who(way), Holder(*place, request.client), ""), (request.id, now, here))
            yield place

    def check(self, request: Request, way: Way, now: float, topic: str = "") -> None:
        """Raise :class:`Refused` for a `subscribe` that was sent before its client left."""
        found = self._left.get((_who(way), holder_of(request, way), topic)) if self._left else None
        if found is None:
            return
        by, at, to = found
        if now - at > KNOWN or (by - request.id) & U32 > U32 // 2:
            return
        # By one request a client can ask for a place and leave another one, and ask the same when it is back.
        if by == request.id and (to is None or to in former(request, way)):
            return
        what = f"topic {topic!r}" if topic else "this place"
        raise Refused(Code.LATE, f"a later request of this client left {what}", "count ids of requests up")

    def _note(self, key: _Key, left: tuple[int, float, tuple[str, int] | None]) -> None:
        known = self._left
        if (before := known.pop(key, None)) is not None and (before[0] - left[0]) & U32 <= U32 // 2:
            # A copy of it, or an older one.
            left = (before[0], left[1], before[2])
        known[key] = left
        while len(known) > MOST or left[1] - next(iter(known.values()))[1] > KNOWN:
            del known[next(iter(known))]


def _who(way: Way) -> str | None:
    return None if way.caller.client is None else way.caller.client.id
