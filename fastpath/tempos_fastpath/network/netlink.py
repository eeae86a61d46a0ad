"""What the kernel is asked about the network: interfaces, addresses, routes, neighbours.

A request costs some microseconds here, where a library that decodes everything takes a millisecond, and 12 MB
of each process. So only what is needed is here. Numbers are those of <linux/netlink.h>, <linux/rtnetlink.h>,
<linux/if_link.h> and <linux/neighbour.h>. Blocking, in the network namespace of the thread that opens the
socket; raises :class:`OSError`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import NamedTuple

from tempos_fastpath.network.facts import Destination
from tempos_fastpath.network.ipsec import POLICY_SIZE, Policy, policy_of

#: The family of IPsec (NETLINK_XFRM).
XFRM = 6
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ROUTE = struct.Struct("=8BI")  # struct rtmsg
_RULE = struct.Struct("=B11x")  # struct fib_rule_hdr: family, and nothing else that a dump looks at
_NEIGHBOUR = struct.Struct("=B3xiHBB")  # struct ndmsg: family, interface, state, flags, type
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, length, flags, scope, interface
_ATTRIBUTE = struct.Struct("=HH")
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _REPLACE, _CREATE = 0x1, 0x4, 0x300, 0x100, 0x400
#: In an answer: what was read while it changed, and is to be read again.
_INTERRUPTED = 0x10
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR, _NEWROUTE, _GETROUTE = 20, 21, 22, 24, 26
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_NEWRULE, _GETRULE, _RULE_DPORT = 32, 34, 24
_NEWNETCONF, _GETNETCONF = 80, 82
_XDP, _XDP_PROG_IDS = 43, (4, 5, 6, 7)
_MAC, _NAME, _MTU, _ON, _MASTER, _INFO, _ON_ELSEWHERE, _INFO_KIND = 1, 3, 4, 5, 10, 18, 37, 1
#: Of what a virtual interface is (IFLA_INFO_*), and of what it is a port of; then of a bridge, and the states
#: of its ports and of a bond's.
_INFO_DATA, _INFO_PORT_KIND, _INFO_PORT_DATA = 2, 4, 5
_VLAN_ID, _VLAN_PRIORITIES, _VLAN_PROTOCOL, _8021Q = 1, 3, 5, b"\x81\0"
_BRIDGE_VLAN_FILTERING, _BRIDGE_PORT_STATE, _BOND_PORT_STATE = 7, 1, 1
#: Of an HSR device its two ports and, from Linux 6.10 on, the one towards another ring.
_HSR_PORTS = (1, 2, 8)
_CARRIER_CHANGES = 35
_FORWARDING, _IN_RESERVE = 3, 1
_ADDR_ADDRESS, _ADDR_LOCAL = 1, 2
_NETCONF_IFINDEX, _NETCONF_RP_FILTER, _NETCONF_ALL = 1, 3, -1
_DST, _SRC, _IIF, _OIF, _GATEWAY, _PREFSRC, _METRICS, _VIA, _ENCAP_TYPE = 1, 2, 3, 4, 5, 7, 8, 18, 21
_IP_PROTO, _SPORT, _DPORT = 27, 28, 29
_NEWPOLICY, _GETPOLICY, _POLICY_ID_SIZE = 0x13, 0x15, 64
_SOL_NETLINK, _STRICT = 270, 12
#: Kinds of routes (RTN_*): to this machine, and to others whose addresses are no host's.
_LOCAL, _NO_HOST = 2, (3, 4, 5)
_METRIC_MTU = 2
_TYPE_MASK = 0x3FFF
_NEIGH_DST, _NEIGH_LLADDR = 1, 2
#: How the kernel begins to tell of an IPv4 neighbour with a MAC: what stands behind changes all the time.
_NEIGH_HEAD, _NEIGH_DST_HEAD, _NEIGH_MAC_HEAD = 32, _ATTRIBUTE.pack(8, 1), _ATTRIBUTE.pack(10, 2)
#: When the kernel used a route last (RTA_CACHEINFO): how many bytes of its answer, and how they begin.
_CACHE_INFO = 36
_CACHE_INFO_HEAD = _ATTRIBUTE.pack(_CACHE_INFO, 12)
#: Questions and answers that come again and again, as many as there may be members: each is made, or taken
#: apart, once.
_REMEMBERED = 4096
#: Of a neighbour: its MAC may be used (NUD_VALID).
_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80
#: Of a neighbour: nobody is asked for its MAC (NUD_NOARP, NUD_PERMANENT).
_SET = 0x40 | 0x80
_NTF_USE = 0x01
#: Requests on their way at a time: their answers fit in any socket's buffer.
_AT_ONCE = 64
_BUFFER = 1 << 17
_TIMEOUT = 5.0
#: Dumps that change while they are read are read again so often.
_ATTEMPTS = 5
#: What the kernel answers where a route of another kind than to a neighbour or a gateway holds.
_REFUSED = {
    errno.EINVAL: "a route drops what goes there (blackhole)",
    errno.EHOSTUNREACH: "a route says that it cannot be reached (unreachable)",
    errno.EACCES: "a route forbids it (prohibit)",
}


@dataclass(frozen=True, slots=True)
class Route:
    """The kernel's answer for one destination. ``error``: an errno, and then nothing else.

    ``kind``: RTN_UNICAST and so on; ``gateway`` empty: on the link; ``strange``: by a gateway of another
    family; ``wrapped``: it puts packets into others; ``mtu`` 0: the interface's.
    """

    error: int = 0
    kind: int = 0
    interface: int = 0
    gateway: str = ""
    source: str = ""
    mtu: int = 0
    strange: bool = False
    wrapped: bool = False

    @property
    def refusal(self) -> str:
        """What the ``error`` says, in words."""
        return _REFUSED.get(self.error, os.strerror(self.error))


class Address(NamedTuple):
    """One of this machine's. ``interface``: the index; ``length``: of its network's prefix."""

    ip: str
    interface: int
    length: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """``state``: NUD_*; ``mac`` empty: not known."""

    interface: int
    ip: str
    state: int
    mac: str

    @property
    def usable(self) -> str:
        """Its MAC, if packets may be sent there."""
        return self.mac if self.state & _VALID else ""


@dataclass(frozen=True, slots=True)
class Link:
    """An interface. ``hardware``: ARPHRD_*; ``mac`` None: it has none; ``kind``: of a virtual one.

    ``on``: the index of what it stands on, which another namespace has where ``elsewhere``. ``separates``: a
    bridge that keeps VLANs apart. ``shut``: what it is a port of takes nothing from it now. ``rings``: the
    indices of its ports, which do not say so themselves (HSR, PRP). ``flaps``: how often it has lost its
    carrier or found it. ``vlan``: of a VLAN device of IEEE 802.1Q its id, else 0; ``prioritizes``: it puts
    priorities into the tags of what leaves (`egress-qos-map`).
    """

    index: int
    hardware: int
    flags: int
    name: str
    mac: str | None
    mtu: int
    kind: str
    on: int
    elsewhere: bool
    master: int
    separates: bool = False
    shut: bool = False
    rings: tuple[int, ...] = ()
    flaps: int = 0
    vlan: int = 0
    prioritizes: bool = False


class Netlink:
    """A socket to the kernel's routing family, or another; a context."""

    def __init__(self, family: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket.settimeout(_TIMEOUT)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def links(self) -> list[Link]:
        """All interfaces."""
        body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        return list(map(_link, self.dump(_GETLINK, body, _NEWLINK)))

    def addresses(self) -> list[Address]:
        """The IPv4 addresses of this machine."""
        found = []
        for payload in self.dump(_GETADDR, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0), _NEWADDR):
            family, length, _, _, interface = _ADDRESS.unpack_from(payload)
            inside = attributes(payload, _ADDRESS.size)
            address = inside.get(_ADDR_LOCAL) or inside.get(_ADDR_ADDRESS)
            if family == socket.AF_INET and address is not None:
                found.append(Address(_address(address), interface, length))
        return found

    def routes(self, wanted: Sequence[Destination], *, oif: int = 0, port: int = 0) -> list[Route]:
        """How a UDP datagram to each would go.

        ``oif``: from a socket that is bound to this interface; ``port``: from this port.
        """
        common = attribute(_IP_PROTO, bytes([socket.IPPROTO_UDP]))
        if port:
            common += attribute(_SPORT, struct.pack("!H", port))
        if oif:
            common += attribute(_OIF, struct.pack("=i", oif))
        requests = [_way_request(each, common) for each in wanted]
        return [
            Route(error=-answer) if isinstance(answer, int) else _route(answer)
            for answer in self.ask(_GETROUTE, 0, requests)
        ]

    def neighbours(self) -> list[Neighbour]:
        """All that the kernel has of IPv4."""
        found = self.dump(_GETNEIGH, _NEIGHBOUR.pack(socket.AF_INET, 0, 0, 0, 0), _NEWNEIGH)
        return [each for each in map(_neighbour, found) if each is not None]

    def no_hosts(self) -> list[tuple[str, int]]:
        """The networks (address, length of the prefix) that no other host has, by routes of any table.

        They are this machine's own, broadcasts and the like.
        """
        found = []
        # The kernel picks them out (Linux 4.20): of other routes there may be a million.
        self._socket.setsockopt(_SOL_NETLINK, _STRICT, 1)
        try:
            for kind in (_LOCAL, *_NO_HOST):
                body = _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, kind, 0)
                for payload in self.dump(_GETROUTE, body, _NEWROUTE):
                    address = attributes(payload, _ROUTE.size).get(_DST, bytes(4))
                    if payload[7] == kind:
                        found.append((_address(address), payload[1]))
        finally:
            self._socket.setsockopt(_SOL_NETLINK, _STRICT, 0)
        return found

    def rules_by_port(self) -> bool:
        """Whether some rule of IPv4 chooses a table by the port that packets go to."""
        rules = self.dump(_GETRULE, _RULE.pack(socket.AF_INET), _NEWRULE)
        return any(_RULE_DPORT in attributes(payload, _RULE.size) for payload in rules)

    def xdp_programs(self) -> set[tuple[int, int]]:
        """Which XDP programs are attached: interface index and the program's id, whatever the mode."""
        found = set()
        for payload in self.dump(_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0), _NEWLINK):
            inside = attributes(attributes(payload, _LINK.size).get(_XDP, b""))
            index = _LINK.unpack_from(payload)[2]
            found |= {(index, number(inside[one])) for one in _XDP_PROG_IDS if one in inside}
        return found

    def reverse_paths(self) -> dict[int, int]:
        """Interface index -> how it looks at ways back (`rp_filter`): 0 not, 1 strictly, 2 loosely."""
        own = {}
        for payload in self.dump(_GETNETCONF, bytes((socket.AF_INET, 0, 0, 0)), _NEWNETCONF):
            found = attributes(payload, 4)
            if _NETCONF_IFINDEX in found and _NETCONF_RP_FILTER in found:
                own[_signed(found[_NETCONF_IFINDEX])] = _signed(found[_NETCONF_RP_FILTER])
        least = own.get(_NETCONF_ALL, 0)
        return {index: max(value, least) for index, value in own.items() if index > 0}

    def policies(self) -> list[Policy]:
        """IPsec's, of IPv4; on a socket to that family. Raises PermissionError for who may not look."""
        found = self.dump(_GETPOLICY, bytes(_POLICY_ID_SIZE), _NEWPOLICY)
        policies = (policy_of(payload, attributes(payload, POLICY_SIZE)) for payload in found)
        return [each for each in policies if each is not None]

    def takes(self, wanted: Sequence[tuple[int, str, str]], *, port: int = 0) -> list[bool]:
        """Whether what comes in by (interface, from an address, to one of ours) would be delivered.

        ``port``: of ours, that UDP goes to; 0: whatever it is.
        """
        common = b""
        if port:
            common = attribute(_IP_PROTO, bytes([socket.IPPROTO_UDP]))
            common += attribute(_DPORT, struct.pack("!H", port))
        requests = [
            _ROUTE.pack(socket.AF_INET, 32, 32, 0, 0, 0, 0, 0, 0)
            + attribute(_DST, socket.inet_aton(to))
            + attribute(_SRC, socket.inet_aton(source))
            + attribute(_IIF, struct.pack("=i", interface))
            + common
            for interface, source, to in wanted
        ]
        return [
            not isinstance(answer, int) and answer[7] == _LOCAL for answer in self.ask(_GETROUTE, 0, requests)
        ]

    def neighbours_of(self, places: Iterable[tuple[int, str]]) -> list[Neighbour]:
        """Of these (interface, address) those that the kernel knows."""
        requests = [
            _NEIGHBOUR.pack(socket.AF_INET, interface, 0, 0, 0) + attribute(_NEIGH_DST, socket.inet_aton(ip))
            for interface, ip in places
        ]
        answers = (answer for answer in self.ask(_GETNEIGH, 0, requests) if not isinstance(answer, int))
        return [each for each in map(_neighbour, answers) if each is not None]

    def use(self, neighbours: Iterable[tuple[int, str]]) -> None:
        """Have the kernel find out, or confirm, who (interface, address) is, as if a packet were sent there.

        One that cannot be asked for is passed over, and one whose MAC somebody has set for good: since Linux
        5.16 to ask takes that from the entry. Raises :class:`PermissionError` for who may not.
        """
        neighbours = list(neighbours)
        found = self.neighbours_of(neighbours) if len(neighbours) < _AT_ONCE else self.neighbours()
        held = {(each.interface, each.ip) for each in found if each.state & _SET}
        requests = [_use_request(*each) for each in neighbours if each not in held]
        if errno.EPERM in self.tell(_NEWNEIGH, _CREATE | _REPLACE, requests):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def dump(self, kind: int, body: bytes, wanted: int) -> list[bytes]:
        """The payloads of all messages of a kind that the answer to a request has."""
        for _ in range(_ATTEMPTS):
            self._sequence += 1
            self._socket.send(_message(kind, _REQUEST | _DUMP, self._sequence, body))
            found: list[bytes] = []
            whole = True
            for got, flags, _, payload in self._answers(self._sequence):
                whole &= not flags & _INTERRUPTED
                if got == _DONE:
                    break
                if got == _ERROR:
                    _check(payload)
                elif got == wanted:
                    found.append(payload)
            if whole:
                break
        return found

    def ask(self, kind: int, flags: int, bodies: Sequence[bytes]) -> Iterator[bytes | int]:
        """The payload of the answer to each request, or its errno as a number below or equal to 0."""
        for at in range(0, len(bodies), _AT_ONCE):
            some = bodies[at : at + _AT_ONCE]
            first = self._sequence + 1
            self._sequence += len(some)
            self._socket.send(
                b"".join(
                    _message(kind, _REQUEST | flags, first + number, body) for number, body in enumerate(some)
                )
            )
            answers: dict[int, bytes | int] = {}
            while len(answers) < len(some):
                for got, _, sequence, payload in self._answers():
                    if first <= sequence <= self._sequence:
                        answers[sequence] = _code(payload) if got == _ERROR else payload
                    if len(answers) == len(some):
                        break
            for sequence in range(first, self._sequence + 1):
                yield answers[sequence]

    def tell(self, kind: int, flags: int, bodies: Sequence[bytes]) -> set[int]:
        """Have the kernel do what each request says; the errnos of what it would not do.

        It says so of what it would not, and of the last of some that it has come to it.
        """
        refused: set[int] = set()
        for at in range(0, len(bodies), _AT_ONCE):
            some = bodies[at : at + _AT_ONCE]
            first = self._sequence + 1
            self._sequence += len(some)
            acks = (_ACK if number == self._sequence else 0 for number in range(first, self._sequence + 1))
            self._socket.send(
                b"".join(
                    _message(kind, _REQUEST | flags | ack, first + number, body)
                    for number, (ack, body) in enumerate(zip(acks, some, strict=True))
                )
            )
            done = False
            while not done:
                for got, _, sequence, payload in self._answers():
                    if got == _ERROR and first <= sequence <= self._sequence:
                        refused.add(-_code(payload))
                        done |= sequence == self._sequence
        return refused - {0}

    def _answers(self, sequence: int | None = None) -> Iterator[tuple[int, int, int, bytes]]:
        """Type, flags, sequence and payload of messages as they come; of one request only, if it is given.

        Without it the messages of one datagram.
        """
        while True:
            for kind, flags, number, payload in messages(self._socket.recv(_BUFFER)):
                if sequence is None or number == sequence:
                    yield kind, flags, number, payload
            if sequence is None:
                return


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence and payload of each message in a datagram of the kernel's."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, data[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def neighbours_told(data: bytes) -> list[Neighbour | None] | None:
    """What neighbours a notification tells of, None for each that went; or none at all: it tells of more."""
    told: list[Neighbour | None] = []
    for kind, _, _, payload in messages(data):
        if kind not in (_NEWNEIGH, _DELNEIGH):
            return None
        told.append(_neighbour(payload) if kind == _NEWNEIGH else None)
    return told


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    padding = -len(body) % 4
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body + bytes(padding)


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute of a request."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes, at: int = 0) -> dict[int, bytes]:
    """Those of an answer, from an offset on."""
    found = {}
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found


@lru_cache(_REMEMBERED)
def _way_request(towards: Destination, common: bytes) -> bytes:
    ip, source, port, tos = towards
    body = _ROUTE.pack(socket.AF_INET, 32, 32 if source else 0, tos, 0, 0, 0, 0, 0)
    body += attribute(_DST, socket.inet_aton(ip)) + common
    body += attribute(_SRC, socket.inet_aton(source)) if source else b""
    return body + (attribute(_DPORT, struct.pack("!H", port)) if port else b"")


@lru_cache(_REMEMBERED)
def _use_request(interface: int, ip: str) -> bytes:
    body = _NEIGHBOUR.pack(socket.AF_INET, interface, 0, _NTF_USE, 0)
    return body + attribute(_NEIGH_DST, socket.inet_aton(ip))


def _code(payload: bytes) -> int:
    return int(struct.unpack_from("=i", payload)[0])


def _check(payload: bytes) -> None:
    code = _code(payload)
    if code:
        raise OSError(-code, os.strerror(-code))


def number(value: bytes | None) -> int:
    """An unsigned one; 0 where there is none."""
    return int.from_bytes(value or b"", sys.byteorder)


def _signed(value: bytes) -> int:
    return int.from_bytes(value[:4], sys.byteorder, signed=True)


def _address(value: bytes | None) -> str:
    return socket.inet_ntoa(value) if value else ""


def _link(payload: bytes) -> Link:
    _, hardware, index, flags, _ = _LINK.unpack_from(payload)
    found = attributes(payload, _LINK.size)
    info = attributes(found.get(_INFO, b""))
    kind = _text(info.get(_INFO_KIND, b""))
    data = attributes(info.get(_INFO_DATA, b"")) if kind in ("bridge", "hsr", "vlan") else {}
    is_vlan = kind == "vlan" and data.get(_VLAN_PROTOCOL, _8021Q) == _8021Q
    mac = found.get(_MAC)
    return Link(
        index=index,
        hardware=hardware,
        flags=flags,
        name=_text(found.get(_NAME, b"")),
        mac=None if mac is None else mac.hex(":"),
        mtu=number(found.get(_MTU)),
        kind=kind,
        on=number(found.get(_ON)),
        elsewhere=_ON_ELSEWHERE in found,
        master=number(found.get(_MASTER)),
        separates=kind == "bridge" and bool(number(data.get(_BRIDGE_VLAN_FILTERING))),
        shut=_is_shut(_text(info.get(_INFO_PORT_KIND, b"")), info.get(_INFO_PORT_DATA, b"")),
        rings=tuple(number(data[each]) for each in _HSR_PORTS if each in data) if kind == "hsr" else (),
        flaps=number(found.get(_CARRIER_CHANGES)),
        vlan=number(data.get(_VLAN_ID)) if is_vlan else 0,
        prioritizes=is_vlan and _VLAN_PRIORITIES in data,
    )


def _is_shut(kind: str, data: bytes) -> bool:
    """Whether a port of that kind does not take part: blocked by a bridge, kept in reserve by a bond."""
    port = attributes(data)
    if kind == "bridge" and _BRIDGE_PORT_STATE in port:
        return number(port[_BRIDGE_PORT_STATE]) != _FORWARDING
    return kind == "bond" and number(port.get(_BOND_PORT_STATE)) == _IN_RESERVE


def _text(value: bytes) -> str:
    return os.fsdecode(value.rstrip(b"\0"))


def _route(payload: bytes) -> Route:
    # What stands last changes all the time, and is of no interest.
    kept = len(payload) - _CACHE_INFO
    return _route_of(payload[:kept] if payload.startswith(_CACHE_INFO_HEAD, kept) else payload)


@lru_cache(_REMEMBERED)
def _route_of(payload: bytes) -> Route:
    found = attributes(payload, _ROUTE.size)
    metrics = attributes(found.get(_METRICS, b""))
    return Route(
        kind=payload[7],
        interface=number(found.get(_OIF)),
        gateway=_address(found.get(_GATEWAY)),
        source=_address(found.get(_PREFSRC)),
        mtu=number(metrics.get(_METRIC_MTU)),
        strange=_VIA in found,
        wrapped=_ENCAP_TYPE in found,
    )


def _neighbour(payload: bytes) -> Neighbour | None:
    if payload[12:16] == _NEIGH_DST_HEAD and payload[20:24] == _NEIGH_MAC_HEAD:
        return _neighbour_of(payload[:_NEIGH_HEAD])
    return _neighbour_of.__wrapped__(payload)


@lru_cache(_REMEMBERED)
def _neighbour_of(payload: bytes) -> Neighbour | None:
    family, interface, state, _, _ = _NEIGHBOUR.unpack_from(payload)
    found = attributes(payload, _NEIGHBOUR.size)
    address = found.get(_NEIGH_DST)
    if family != socket.AF_INET or address is None:
        return None
    return Neighbour(interface, _address(address), state, found.get(_NEIGH_LLADDR, b"").hex(":"))
