"""What a case is played on: three nodes and how they reach each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from networks.ground import Ground
from tempos_bench.nodes.namespace import Namespace
from tempos_bench.nodes.node import Node

#: Addresses of the broker towards publisher and member, and those of the two.
NEAR, FAR = "10.0.1.1", "10.0.2.1"
PUBLISHER, MEMBER = "10.0.1.2", "10.0.2.2"


@dataclass(frozen=True)
class Dropped:
    """What queues threw away: packets, by the kind of queue and as it counts them, and events in those."""

    packets: Mapping[str, int]
    events: int


@dataclass(frozen=True)
class Network:
    """The nodes, and what a case does to them.

    ``broker.addresses`` is what it listens on; ``publish_to`` and ``subscribe_at`` are the addresses that its
    clients use. ``within``: a command that the broker is started by. ``begin`` is called when all is ready
    and before anything is published. ``dropped``: what the queues on the broker's way out have thrown away,
    where the case is about such queues.
    """

    publisher: Node
    broker: Node
    subscriber: Node
    publish_to: str = NEAR
    subscribe_at: str = FAR
    within: tuple[str, ...] = ()
    begin: Callable[[], None] = field(default=lambda: None)
    dropped: Callable[[], Dropped | None] = field(default=lambda: None)


Build = Callable[[Ground], Network]


@dataclass(frozen=True)
class Spaces:
    """The namespaces of a network that is being built."""

    ground: Ground
    p: Namespace
    b: Namespace
    s: Namespace

    def network(self, *listen: str) -> Network:
        """The network, with the broker listening there (else on its usual two addresses)."""
        broker = self.ground.node(self.b, *(listen or (NEAR, FAR)))
        return Network(self.ground.node(self.p), broker, self.ground.node(self.s))

    def publisher_wired(self) -> None:
        """A plain link between publisher and broker."""
        self.ground.wire(self.p, "eth0", PUBLISHER, self.b, "eth0", NEAR)

    def member_wired(self, *, gro: bool = True) -> None:
        """A plain link between broker and member."""
        self.ground.wire(self.b, "eth1", FAR, self.s, "eth0", MEMBER, gro=gro)


def three(ground: Ground) -> Spaces:
    """Three namespaces with nothing between them."""
    return Spaces(ground, *ground.spaces("P", "B", "S"))


def straight(ground: Ground) -> Network:
    """A plain link on either side."""
    spaces = three(ground)
    spaces.publisher_wired()
    spaces.member_wired()
    return spaces.network()
