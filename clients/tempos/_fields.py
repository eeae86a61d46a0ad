"""What stands in the lists of control requests and answers, row by row: a value for each kind.

And what all of a request but its id says, for most say the same again.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

import msgpack

T = TypeVar("T")


class Former(NamedTuple):
    """Where a client was a member before its address changed: that membership ends when it joins again."""

    ip: str
    port: int


class Received(NamedTuple):
    """What one member got of one topic and group in one epoch: datagrams, since the epoch began."""

    topic: int
    group: str
    epoch: int
    datagrams: int


class Dropped(NamedTuple):
    """What of that did not reach its program: datagrams, over all epochs."""

    topic: int
    group: str
    datagrams: int


class Asked(NamedTuple):
    """A topic that a member asks about, and up to which version it knows what publishers have told."""

    topic: int
    known: int


class Told(NamedTuple):
    """What the broker tells members of a publisher: what it says in :class:`Sent`, in which version."""

    topic: int
    publisher: int
    version: int
    numbered: int
    unsent: int
    datagrams: int
    since: int


class Heard(NamedTuple):
    """What a member got of one publisher: of the ``passed`` numbers from ``first`` on, ``events``.

    ``lost``: events of these that certainly never reached a ticket of its group.
    """

    topic: int
    group: str
    publisher: int
    datagrams: int
    events: int
    first: int
    passed: int
    lost: int


class Replay(NamedTuple):
    """Events of a topic that a member asks for: behind a position; at 0, the ``last`` ones, of an age."""

    topic: int
    after: int
    last: int
    age_ms: int


class Missing(NamedTuple):
    """Deliveries of one epoch that a member has not got, from the sequence ``first`` on."""

    topic: int
    epoch: int
    first: int
    number: int


class Confirm(NamedTuple):
    """What came of the numbers [lowest, numbered) of a topic; of it a publisher has given up so many events.

    ``since``: the broker's clock when it asked for the topic, before the first of them; 0: it did not.
    """

    topic: int
    lowest: int
    numbered: int
    given_up: int
    since: int


class Consumed(NamedTuple):
    """Deliveries of one epoch that a member has processed, from the sequence ``first`` on."""

    topic: int
    epoch: int
    first: int
    number: int


class Taking(NamedTuple):
    """Where a member is with the ``lot`` that it has of a topic (0, 0, 0: none): so many are ``done``.

    ``have``: so many have come; ``room``: for so many more.
    """

    topic: int
    lot: int
    done: int
    have: int
    room: int


class Repaired(NamedTuple):
    """What became of deliveries that were missing, in datagrams: came when asked for, asked for no more."""

    topic: int
    group: str
    repaired: int
    given_up: int


class Lacking(NamedTuple):
    """What a member knows to be missing: deliveries, and datagrams of publishers that it does not follow."""

    topic: int
    group: str
    missed: int
    unfollowed: int


class Sent(NamedTuple):
    """What a publisher has sent of one topic: events numbered, of these never sent, and datagrams.

    ``since``: the broker's clock when it asked for the topic, before the first of them.
    """

    topic: int
    numbered: int
    unsent: int
    datagrams: int
    since: int


#: What decoders make of what may hold more: these very types.
_NESTED = (dict, list)


def is_deeper(value: object, depth: int) -> bool:
    """Whether more than ``depth`` lists and maps are in each other; found out without recursion."""
    level: list[Any] = [value] if type(value) in _NESTED else []
    for _ in range(depth):
        inner = [each.values() if type(each) is dict else each for each in level]
        level = [each for values in inner for each in values if type(each) in _NESTED]
        if not level:
            return False
    return True


#: How a request begins whose id stands before all that it says, after the head of the map.
_ID_FIRST = b"\xa1v\x01\xa2id"
_AT = 1 + len(_ID_FIRST)
#: Bytes that an id takes, by the first of them; one up to this is all of it.
_SIZES, _SMALL = {0xCC: 2, 0xCD: 3, 0xCE: 5}, 0x7F


def without_id(datagram: bytes) -> tuple[int, bytes] | None:
    """The id of a request, and the rest of it; None: its id stands elsewhere, or there is none."""
    if len(datagram) <= _AT or not datagram.startswith(_ID_FIRST, 1):
        return None
    first = datagram[_AT]
    end = _AT + _SIZES.get(first, 1)
    if end - _AT > 1:
        return int.from_bytes(datagram[_AT + 1 : end], "big"), datagram[:1] + datagram[end:]
    return (first, datagram[:1] + datagram[end:]) if first <= _SMALL else None


def with_id(rest: bytes, number: int) -> bytes:
    """What :func:`without_id` has cut, with an id."""
    return b"%c%b%b%b" % (rest[0], _ID_FIRST, msgpack.packb(number), rest[1:])


class Said(Generic[T]):
    """What was made of requests that say the same again: of ``most`` at most, the oldest is forgotten first.

    A member at rest sends the same heartbeat every few seconds, but for its id.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[bytes, T] = {}

    def get(self, said: bytes) -> T | None:
        return self._known.get(said)

    def put(self, said: bytes, made: T) -> None:
        if len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        self._known[said] = made
