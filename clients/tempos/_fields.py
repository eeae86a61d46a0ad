"""What stands in the lists of control requests and answers, row by row: a value for each kind."""

from __future__ import annotations

from typing import NamedTuple


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
