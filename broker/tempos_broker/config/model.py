"""A checked configuration as immutable values. Whoever holds one need not doubt it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from tempos import API_PORT, CONTROL_PORT, DATA_PORT, Quality, Topic, names
from tempos._rows import TOPICS
from tempos.auth import WINDOW

#: Groups that the broker names itself begin with this; none of the file may.
OWN_GROUP = "~"
#: In a client's rights: every topic.
EVERY_TOPIC = "*"


@dataclass(frozen=True, slots=True)
class StaticMember:
    """A member from the file: no lease, no heartbeat. ``group`` None is a group of its own.

    ``source``: the address of ours that its events leave from; None: the one that the kernel prefers towards
    it, where the broker listens on that, else the first it listens on that leads there. ``weight``: its share
    of what is picked by the source.
    """

    ip: str
    port: int = DATA_PORT
    group: str | None = None
    mac: str | None = None
    source: str | None = None
    weight: int = 1


class Origin(str, enum.Enum):
    """Who made a topic or client: the configuration file, or an order while the broker ran."""

    FILE = "file"
    RUN_TIME = "run-time"


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """A topic and its static members. Equal are those with the same options, whoever made them."""

    topic: Topic
    members: tuple[StaticMember, ...] = ()
    origin: Origin = field(default=Origin.FILE, compare=False)


@dataclass(frozen=True, slots=True)
class FastPathConfig:
    """``mode``: auto (native, else generic, else none), native, generic or off.

    ``interfaces``: names, or empty for those that carry the listen addresses. ``pin``: it outlives the
    broker. ``when_gone``: continue or pass, once the broker gave no sign of life for ``gone_after`` seconds.
    ``on_stop``: keep it in force for the next broker, or withdraw it. ``latency``: measure in the kernel how
    long events take. ``reverse_path``: drop what the host would drop by its `rp_filter`.
    """

    mode: str = "auto"
    interfaces: tuple[str, ...] = ()
    pin: bool = True
    when_gone: str = "continue"
    gone_after: float = 3.0
    on_stop: str = "keep"
    latency: bool = False
    reverse_path: bool = True


@dataclass(frozen=True, slots=True)
class QualityConfig:
    """How SQ and BQ are kept apart on the slow path, and how what leaves is marked on both.

    ``sockets``: how the classes are told apart at the data port: auto (ebpf, else classic, else one),
    ebpf, classic or one. ``share_bq``: percent of the slow path's sending that BQ gets while SQ waits.
    ``worker_sq``: SQ is served by a process of its own, with ``priority_sq`` under SCHED_FIFO (0: without).
    ``latency``: measure how long the slow path takes for events.
    ``cpus_sq``, ``cpus_bq``: CPU numbers, empty: any. ``dscp_*``: 0-63; ``so_priority_*``: 0-15.
    """

    sockets: str = "auto"
    share_bq: int = 0
    latency: bool = True
    worker_sq: bool = False
    priority_sq: int = 99
    cpus_sq: tuple[int, ...] = ()
    cpus_bq: tuple[int, ...] = ()
    dscp_sq: int = 46
    dscp_bq: int = 0
    so_priority_sq: int = 6
    so_priority_bq: int = 0

    def dscp(self, quality: Quality) -> int:
        """The DSCP (RFC 2474) of what leaves of a class."""
        return self.dscp_sq if quality is Quality.SQ else self.dscp_bq

    def so_priority(self, quality: Quality) -> int:
        """The SO_PRIORITY (socket(7)) of what leaves of a class: what the qdiscs of this machine go by."""
        return self.so_priority_sq if quality is Quality.SQ else self.so_priority_bq


@dataclass(frozen=True, slots=True)
class Limits:
    """``queue_sq``, ``queue_bq``: datagrams that may wait per class. ``batch``: datagrams per system call.

    ``datagram``: the largest payload taken, bytes. ``receive_buffer``: bytes asked of the kernel per socket.
    ``groups_per_client``: of a topic, those that members of one address, or of one client, may be in.
    ``unheard``: warn or evict members that tell of none of the events they are sent, where a topic is silent.
    ``vacant``: seconds that a work queue without a member keeps what comes for the next one.
    ``topics``: how many a broker may have at once; tables of both paths are that large.
    """

    queue_sq: int = 4096
    queue_bq: int = 4096
    batch: int = 64
    datagram: int = 2048
    receive_buffer: int = 8 * 1024 * 1024
    members_per_group: int = 64
    groups_per_topic: int = 1024
    groups_per_client: int = 8
    unheard: str = "warn"
    vacant: float = 3600.0
    topics: int = TOPICS


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """A client that signs what it asks, and its rights: topics by name or filter, or ``EVERY_TOPIC``.

    Equal are those of the same key and rights, whoever made them.
    """

    id: str
    key: bytes = field(repr=False)
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    origin: Origin = field(default=Origin.FILE, compare=False)

    def may(self, right: str, wanted: str) -> bool:
        """Whether it has a right on the topic of this name, or on all that a filter can match."""
        topics: tuple[str, ...] = getattr(self, right)
        if EVERY_TOPIC in topics or wanted in topics:
            return True
        if names.is_filter(wanted):
            return names.covered(wanted, topics)
        return any(names.matches(each, wanted) for each in topics)


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """``lease``, ``heartbeat``: seconds. ``networks``: who may send control datagrams, CIDR.

    ``clients``: who may ask; none means that everybody of ``networks`` may, unsigned. With any, only
    ``open_networks`` may ask unsigned. ``rate``: requests per second of one address; ``clock_window``:
    seconds that a signed request's time may differ from the broker's, either way. ``signed``: only
    ``open_networks`` may ask unsigned though there is no client; no file says that, orders do.
    """

    lease: float = 10.0
    heartbeat: float = 2.5
    networks: tuple[str, ...] = ("0.0.0.0/0",)
    open_networks: tuple[str, ...] = ()
    rate: int = 1000
    clock_window: float = WINDOW
    clients: tuple[ClientConfig, ...] = ()
    signed: bool = False


@dataclass(frozen=True, slots=True)
class StateConfig:
    """``file``: where what must survive a restart is kept; empty: the usual place, ``off``: nowhere."""

    file: str = ""


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """The fleet that a broker belongs to; without ``name`` to none.

    ``etcd``: URLs of the store's members, ``user`` and ``password`` of who reads and writes there, ``ca``,
    ``certificate`` and ``key``: files for TLS. ``address``: the address of ours that members anywhere get
    their events from; empty: the first of ``broker.listen``. ``zone``: where this broker is. ``lease``:
    seconds after which a broker that is gone is out, with members that found no other by then. ``share``:
    what its brokers have together besides members: ``topics``, ``keys``, those made at run time.
    """

    name: str = ""
    etcd: tuple[str, ...] = ()
    user: str = ""
    password: str = field(default="", repr=False)
    ca: str = ""
    certificate: str = ""
    key: str = ""
    address: str = ""
    zone: str = ""
    lease: float = 10.0
    share: tuple[str, ...] = ("topics",)


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """The whole of it. ``listen``: IPv4 addresses; ``0.0.0.0`` stands for every local one.

    ``name`` tells brokers of one machine apart. ``api_port`` 0: no control API. ``api_token``, or the
    content of ``api_token_file``: what every request must bring; ``api_expose``: an API beyond loopback
    is meant. ``user``: who to become at the start; empty: nobody else. ``adapter``: what kind
    of channels the slow path has.
    """

    topics: tuple[TopicConfig, ...]
    listen: tuple[str, ...] = ("0.0.0.0",)  # noqa: S104 - a broker is there to be reached
    data_port: int = DATA_PORT
    control_port: int = CONTROL_PORT
    api_host: str = "127.0.0.1"
    api_port: int = API_PORT
    fastpath: FastPathConfig = FastPathConfig()
    limits: Limits = Limits()
    control: ControlConfig = ControlConfig()
    user: str = ""
    name: str = "default"
    api_token: str = field(default="", repr=False)
    api_token_file: str = ""
    api_expose: bool = False
    adapter: str = "udp"
    state: StateConfig = StateConfig()
    quality: QualityConfig = QualityConfig()
    fleet: FleetConfig = FleetConfig()
