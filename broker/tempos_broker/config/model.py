"""A checked configuration as immutable values. Whoever holds one need not doubt it."""

from __future__ import annotations

from dataclasses import dataclass

from tempos import API_PORT, CONTROL_PORT, DATA_PORT, Topic

#: Groups that the broker names itself begin with this; none of the file may.
OWN_GROUP = "~"


@dataclass(frozen=True, slots=True)
class StaticMember:
    """A member from the file: no lease, no heartbeat. ``group`` None is a group of its own."""

    ip: str
    port: int = DATA_PORT
    group: str | None = None
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """A topic and its static members."""

    topic: Topic
    members: tuple[StaticMember, ...] = ()


@dataclass(frozen=True, slots=True)
class FastPathConfig:
    """``mode``: auto (native, else generic, else none), native, generic or off.

    ``interfaces``: names, or empty for those that carry the listen addresses.
    """

    mode: str = "auto"
    interfaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """``queue_sq``, ``queue_bq``: datagrams that may wait per class. ``batch``: datagrams per system call.

    ``datagram``: the largest payload taken, bytes. ``receive_buffer``: bytes asked of the kernel per socket.
    """

    queue_sq: int = 4096
    queue_bq: int = 4096
    batch: int = 64
    datagram: int = 2048
    receive_buffer: int = 8 * 1024 * 1024
    members_per_group: int = 64
    groups_per_topic: int = 16


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """``lease``, ``heartbeat``: seconds. ``networks``: who may send control datagrams, CIDR."""

    lease: float = 10.0
    heartbeat: float = 2.5
    networks: tuple[str, ...] = ("0.0.0.0/0",)


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """The whole of it. ``listen``: IPv4 addresses; ``0.0.0.0`` stands for every local one.

    ``api_port`` 0: no control API.
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
