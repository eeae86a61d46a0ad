"""The words of tempos as immutable values: topic, member, group, route.

Broker, fast path and clients exchange these; none of them holds a reference to live state.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from tempos._abi import JOURNAL_BYTES


class Quality(str, enum.Enum):
    """Quality class of a topic. Strict is never disturbed by best effort."""

    SQ = "SQ"
    BQ = "BQ"


class Framing(str, enum.Enum):
    """How the payload of a topic is laid out. ``raw``: topic byte, then anything. ``event``: the header.

    ``foreign``: anything, as senders that know nothing of tempos send it; the port says of which topic it is.
    """

    RAW = "raw"
    EVENT = "event"
    FOREIGN = "foreign"


class PathPolicy(str, enum.Enum):
    """Which data path a topic may take. ``fast`` also means: say so loudly when it cannot."""

    AUTO = "auto"
    FAST = "fast"
    SLOW = "slow"


class Overflow(str, enum.Enum):
    """What happens to datagrams beyond a topic's ``rate``. ``drop``: refused, on either path, and counted.

    ``pass``: the limit is the fast path's; what is beyond it waits in the slow path's queue.
    """

    DROP = "drop"
    PASS = "pass"  # noqa: S105 - handed up, not a password


class Fanout(str, enum.Enum):
    """Who makes the copies for several groups inside the kernel: XDP, a tc program, or what fits best."""

    AUTO = "auto"
    XDP = "xdp"
    TC = "tc"


class Unheard(str, enum.Enum):
    """What happens to a member that tells of no event that it is sent. ``evict``: it has to go, for a while.

    ``warn``: it is told, and stays; ``auto``: as the broker's `limits.unheard` says.
    """

    AUTO = "auto"
    WARN = "warn"
    EVICT = "evict"


class Pick(str, enum.Enum):
    """Which member of a group gets a datagram. ``turn``: one after the other.

    ``source``: all from one address go to one member, ``source-port``: all from one address and port; when
    members come or go, only the sources move that must. Of foreign topics only.
    """

    TURN = "turn"
    SOURCE = "source"
    SOURCE_PORT = "source-port"


class Prefer(str, enum.Enum):
    """Which members of a group get what a broker of a fleet sends. ``any``: all of them.

    ``zone``: those whose home is in the broker's zone, as long as there are any.
    """

    ANY = "any"
    ZONE = "zone"


class Path(str, enum.Enum):
    """A data path."""

    FAST = "fast"
    SLOW = "slow"


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """What holds of one group of a foreign topic, by its name.

    ``sources``: the IPv4 networks (CIDR) of which it gets what they send; none: it gets all. ``every``: of
    that its members get one in so many, the first and then each that many further. ``keep``: what they get
    comes from the sender's address and port, not from the broker's.

    ``down_after``: seconds after which a member that does not take what it is sent is out of a group of
    several, until it does; 0: never. ``probe``: how it is asked besides, ``udp``, ``tcp`` or ``none``;
    ``probe_port``: where, 0: at its own port.
    """

    name: str
    sources: tuple[str, ...] = ()
    every: int = 1
    keep: bool = False
    down_after: float = 3.0
    probe: str = "none"
    probe_port: int = 0

    @property
    def is_of_path(self) -> bool:
        """Whether it concerns how events go, and not only who is there."""
        return bool(self.sources or self.every > 1 or self.keep)


@dataclass(frozen=True, slots=True)
class Topic:
    """What both paths and the clients need to know of a topic.

    ``id``: 1-254 is the first payload byte; 256-65534 stand in the two that follow a first one of 255.
    ``priority`` 0-7 inside its class, 7 served first.
    ``sources``: the IPv4 networks (CIDR, at most 8) whose events are taken; none: all are.
    ``rate``: datagrams per second that are taken, 0: any number. ``burst``: how many of them may come at
    once, 0: see :attr:`bucket`. ``overflow``: what happens to the others.
    ``fanout``: how the fast path serves several groups; anything but ``auto`` is for measurements.
    ``unheard``: what happens to members that events do not reach.
    ``journal``: events that the broker keeps, 0: none; of each as many bytes of payload as
    ``journal_bytes`` says (0: see :attr:`journal_room`), or none of it.
    ``retain``: whether a new member first gets the last event, out of the journal.
    ``repair``: whether members can have sent again what they miss; None: see :attr:`is_repaired`.
    ``ports``: where a foreign topic takes datagrams, beside the data port of the others. ``pick``: which
    member of each of its groups gets one.
    ``groups``: options of groups of a foreign topic, of those that have any.
    ``redeliver``: whether what a member was sent and has not processed goes to others of its group when it
    is gone. ``prefer``: which members of its groups go first, in a fleet.
    """

    id: int
    name: str
    quality: Quality = Quality.BQ
    priority: int = 0
    framing: Framing = Framing.EVENT
    policy: PathPolicy = PathPolicy.AUTO
    sources: tuple[str, ...] = ()
    rate: int = 0
    burst: int = 0
    overflow: Overflow = Overflow.DROP
    fanout: Fanout = Fanout.AUTO
    unheard: Unheard = Unheard.AUTO
    journal: int = 0
    journal_bytes: int = 0
    retain: bool = False
    repair: bool | None = None
    ports: tuple[int, ...] = ()
    redeliver: bool = False
    pick: Pick = Pick.TURN
    prefer: Prefer = Prefer.ANY
    groups: tuple[GroupOptions, ...] = ()

    @property
    def bucket(self) -> int:
        """The datagrams that may come at once: ``burst``, or what ``rate`` gives in 10 ms; 0: no limit."""
        if not self.rate:
            return 0
        return self.burst or max(1, self.rate // 100)

    @property
    def is_repaired(self) -> bool:
        """Whether members can have sent again what they miss: as ``repair`` says, or those of class SQ."""
        wanted = self.quality is Quality.SQ if self.repair is None else self.repair
        return wanted and self.journal > 0 and self.framing is Framing.EVENT

    @property
    def journal_room(self) -> int:
        """The bytes of payload kept of an event: ``journal_bytes``, or what an MTU of 1,500 carries."""
        return (self.journal_bytes or JOURNAL_BYTES) if self.journal else 0


#: What an address begins with that nobody has: it stands where a work queue has no member.
NOBODY = "0."


def place_name(ip: str, port: int) -> str:
    """Where a member is, for people; of nobody's place that nobody is there."""
    return "(nobody)" if ip.startswith(NOBODY) else f"{ip}:{port}"


@dataclass(frozen=True, slots=True)
class Member:
    """One subscriber endpoint. ``mac`` is set only where the configuration names it.

    ``weight``: its share of what is picked by the source, as a multiple of others'.

    ``source``: the broker's address that it knows, which its events leave from; None: the one that the
    broker's kernel prefers towards it.
    """

    ip: str
    port: int
    mac: str | None = None
    source: str | None = None
    weight: int = 1
    #: Whether nobody is there: nothing is sent, and what it is ticketed waits for the next member.
    is_nobody: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_nobody", self.ip.startswith(NOBODY))

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class Group:
    """A subscription group: each event goes to exactly one of ``members``, round robin in this order."""

    name: str
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """The immutable forwarding state of one topic for one epoch. Groups are never empty."""

    topic: Topic
    epoch: int
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class PathChoice:
    """Which path serves a topic now, and why, in words for people."""

    path: Path
    reason: str


class Volume(NamedTuple):
    """Bytes of payload that the fast path forwarded of a topic, and that it dropped for good."""

    forwarded: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class InterfaceStatus:
    """One interface the fast path was asked to serve: the mode really used, and why."""

    name: str
    mode: str
    reason: str


@dataclass(frozen=True, slots=True)
class FastPathStatus:
    """``mode`` is native, generic or none (the weakest of the interfaces); ``reason`` says why.

    ``lacks``: what this kernel does not have that the fast path would use, and what happens instead.
    ``bypassed``: what the host's firewall does, or may do, with datagrams that the fast path takes.
    ``following``: the network has just changed; until programs and routes go by it, what a change concerns
    may take the slow path, whatever topics say.
    """

    mode: str
    reason: str
    interfaces: tuple[InterfaceStatus, ...] = ()
    lacks: tuple[str, ...] = ()
    bypassed: tuple[str, ...] = ()
    following: bool = False
