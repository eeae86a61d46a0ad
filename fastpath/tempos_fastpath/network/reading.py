"""What the kernel knows of the network, as a snapshot.

A snapshot is read anew as a whole whenever devices, addresses or routes may have changed; neighbours alone,
which change all the time, are read by themselves, and a destination that is new is added to what is known.
The functions block and act in the network namespace of the calling thread.
"""

from __future__ import annotations

import array
import errno
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from tempos_fastpath.errors import NetworkUnreadable
from tempos_fastpath.network.answers import answers
from tempos_fastpath.network.facts import Destination, Facts, Interface, Way
from tempos_fastpath.network.ipsec import Policy
from tempos_fastpath.network.netdev import xdp_features
from tempos_fastpath.network.netlink import XFRM, Link, Neighbour, Netlink, Route

_ARPHRD_ETHER = 1
_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_IFF_RUNNING = 0x40
_RTN_UNICAST = 1
_RTN_NAMES = {2: "it is this machine", 3: "it is a broadcast address", 5: "it is a multicast address"}
#: Neighbour states whose MAC may be used: reachable, stale, delay, probe, no ARP needed, permanent.

#: Of a prefix that is one address.
_WHOLE = 32
#: Networks that no packet on a wire is from; every program knows these.
_NEVER = tuple(map(ipaddress.ip_network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")))

_XDP_ACT_BASIC, _XDP_ACT_NDO_XMIT = 1, 4

_SO_BINDTOIFINDEX = 62
_L3MDEV_ACCEPT = Path("/proc/sys/net/ipv4/udp_l3mdev_accept")
_HASH_POLICY = Path("/proc/sys/net/ipv4/fib_multipath_hash_policy")
_SIOCETHTOOL = 0x8946
_ETHTOOL_GFLAGS, _ETH_FLAG_RXVLAN = 0x25, 1 << 8


Features = Callable[[], Mapping[int, int] | None]


def read_facts(
    destinations: Iterable[Destination] = (),
    features_of: Features | None = None,
    port: int = 0,
    bound_to: Callable[[], int] | None = None,
) -> Facts:
    """Read a snapshot; raises :class:`NetworkUnreadable`. Costs a millisecond, and little per destination.

    Ways are those of a socket of this process; one that is started inside of a VRF has its sockets there.

    ``features_of``: tells what interfaces can do with XDP; without it :func:`told_features`.
    ``port``: the UDP port that events leave from, for rules of the kernel that go by it.
    ``bound_to``: tells which interface sockets are bound to; without it :func:`bound_interface`.
    """
    try:
        features = (features_of or told_features)() or {}
        bound = (bound_to or bound_interface)()
        with Netlink() as netlink:
            links = tuple(netlink.links())
            rings = {port: each.index for each in links for port in each.rings}
            interfaces = {each.index: _interface(each, features, rings) for each in links}
            addresses = [each for each in netlink.addresses() if each.interface in interfaces]
            ours = {each.ip for each in addresses}
            by = interfaces[bound].name if bound in interfaces else ""
            by_port = _is_set(_HASH_POLICY) or netlink.rules_by_port()
            wanted = destinations if by_port else {each._replace(port=0) for each in destinations}
            ways = _ways(netlink, wanted, bound if by else 0, port, by, ours)
            neighbours = _usable(netlink.neighbours())
            suspects, vague = _suspects(netlink, ours)
            reverse_paths = netlink.reverse_paths()
            answering = answers(netlink, interfaces, addresses)
        policies = _policies()
    except OSError as error:
        raise NetworkUnreadable(f"the kernel's network facts cannot be read: {error}") from error
    return Facts(
        interfaces, tuple((each.ip, each.interface) for each in addresses), ways, neighbours, bound,
        _is_set(_L3MDEV_ACCEPT), suspects, vague, reverse_paths, policies, by_port, answering,
    )  # fmt: skip


def read_more(facts: Facts, destinations: Iterable[Destination], port: int = 0) -> Facts:
    """``facts`` with the ways to more destinations and who is next on them; raises as :func:`read_facts`."""
    try:
        by = facts.interfaces[facts.bound].name if facts.bound in facts.interfaces else ""
        ours = {address for address, _ in facts.addresses}
        with Netlink() as netlink:
            wanted = map(facts.key, destinations)
            ways = _ways(netlink, wanted, facts.bound if by else 0, port, by, ours)
            hops = {(way.ifindex, way.next_hop) for way in ways.values() if not way.obstacle}
            known = _usable(netlink.neighbours_of(hops))
    except OSError as error:
        raise NetworkUnreadable(f"the kernel's network facts cannot be read: {error}") from error
    others = {place: mac for place, mac in facts.neighbours.items() if place not in hops}
    return replace(facts, ways={**facts.ways, **ways}, neighbours={**others, **known})


def read_neighbours(facts: Facts) -> Facts:
    """``facts`` with the neighbours as they are now; the very same if none has changed. Raises as above."""
    try:
        with Netlink() as netlink:
            neighbours = _usable(netlink.neighbours())
    except OSError as error:
        raise NetworkUnreadable(f"the kernel's neighbours cannot be read: {error}") from error
    return facts if neighbours == facts.neighbours else replace(facts, neighbours=neighbours)


def bound_interface() -> int:
    """The index of the interface that a new IPv4 socket of this process is bound to; 0 for none.

    `ip vrf exec` has a BPF program of the control group bind each socket when it is made, so only a socket
    tells, whoever put the program there and on which group.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return probe.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX)


def resolve_neighbours(neighbours: Iterable[tuple[int, str]]) -> None:
    """Have the kernel find out, or confirm, the MAC of each (interface index, IP).

    As if a packet were sent there; leaves no entry that the kernel would not drop by itself. A neighbour
    that cannot be asked for (its interface just went away) is left to the next snapshot to show.
    """
    try:
        with Netlink() as netlink:
            netlink.use(neighbours)
    except OSError as error:
        raise NetworkUnreadable(f"the kernel cannot be asked to resolve a neighbour: {error}") from error


def _is_set(setting: Path) -> bool:
    try:
        return setting.read_text().strip() != "0"
    except OSError:
        # A kernel without VRFs, or without routes by several ways.
        return False


def _interface(link: Link, features: Mapping[int, int], rings: Mapping[int, int]) -> Interface:
    known = features.get(link.index)
    return Interface(
        index=link.index,
        name=link.name,
        mac=link.mac,
        mtu=link.mtu,
        up=bool(link.flags & _IFF_UP and link.flags & _IFF_RUNNING),
        ethernet=link.hardware == _ARPHRD_ETHER and not link.flags & _IFF_LOOPBACK,
        takes_redirects=None if known is None else bool(known & _XDP_ACT_NDO_XMIT),
        kind=link.kind,
        # What stands on something in another namespace has an index of that one's.
        link=link.on if not link.elsewhere and link.kind != "veth" else 0,
        master=link.master or rings.get(link.index, 0),
        strips_tags=_strips_tags(link.name),
        loopback=bool(link.flags & _IFF_LOOPBACK),
        separates=link.separates,
        shut=link.shut,
        flaps=link.flaps,
        vlan=link.vlan,
        prioritizes=link.prioritizes,
        runs_native=bool((known or 0) & _XDP_ACT_BASIC),
    )


def _strips_tags(name: str) -> bool:
    """Whether the driver takes VLAN tags off what comes in; False where it cannot be asked."""
    value = array.array("I", [_ETHTOOL_GFLAGS, 0])
    request = struct.pack("16sP16x", name.encode()[:15], value.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
        except OSError:
            # Not every device answers, and one may have gone since it was listed.
            return False
    return bool(value[1] & _ETH_FLAG_RXVLAN)


def _ways(
    netlink: Netlink, destinations: Iterable[Destination], oif: int, port: int, bound: str,
    ours: Collection[str],
) -> dict[Destination, Way]:  # fmt: skip
    """With all that the slow path's socket would bring along: rules of the kernel may go by any of it."""
    wanted = list(dict.fromkeys(destinations))
    found = netlink.routes(wanted, oif=oif, port=port)
    return {each: _way(route, each, bound, ours) for each, route in zip(wanted, found, strict=True)}


def _way(route: Route, towards: Destination, bound: str, ours: Collection[str]) -> Way:
    ip, source = towards.ip, towards.source
    if route.error:
        if source is not None and source not in ours:
            gone = f"its events leave from {source}, which this machine does not have now"
            return Way(obstacle=gone, nowhere=True)
        by = (f" from {source}" if source is not None else "") + (f" by way of {bound}" if bound else "")
        # It says of a source that may leave by no link what it says of a route to nowhere.
        is_of_source = source is not None and source.startswith("127.")
        why = os.strerror(route.error) if is_of_source else route.refusal
        return Way(obstacle=f"no route to it{by} ({why})", nowhere=True)
    if route.kind != _RTN_UNICAST:
        return Way(obstacle=_RTN_NAMES.get(route.kind, "the kernel's route refuses it"))
    if route.strange:
        return Way(obstacle="the gateway on the way to it has no IPv4 address")
    if route.wrapped:
        return Way(obstacle="the route to it wraps packets into others (encap)")
    return _open_way(route.interface, route.gateway or ip, route.mtu, source or route.source)


@lru_cache(4096)
def _open_way(ifindex: int, next_hop: str, mtu: int, source: str) -> Way:
    """One object as long as it is the same, so that it is seen at once that nothing has changed."""
    return Way(ifindex, next_hop, mtu, source)


def _policies() -> tuple[Policy, ...]:
    try:
        with Netlink(XFRM) as netlink:
            return tuple(sorted(netlink.policies()))
    except OSError as error:
        # A kernel without IPsec; or one who may attach no program either looks.
        if error.errno in (errno.EPROTONOSUPPORT, errno.EPERM, errno.EOPNOTSUPP):
            return ()
        raise


def _suspects(netlink: Netlink, ours: Collection[str]) -> tuple[tuple[str, ...], bool]:
    """The addresses that are no other host's, and whether there are networks of such beside those."""
    found, vague = set(ours), False
    for address, length in netlink.no_hosts():
        if length == _WHOLE:
            found.add(address)
        else:
            vague |= not any(ipaddress.ip_address(address) in each for each in _NEVER)
    inside = (each for each in found if not any(ipaddress.ip_address(each) in never for never in _NEVER))
    return tuple(sorted(inside, key=ipaddress.ip_address)), vague


def _usable(neighbours: Iterable[Neighbour]) -> dict[tuple[int, str], str]:
    return {(each.interface, each.ip): mac for each in neighbours if (mac := each.usable)}


def told_features() -> dict[int, int] | None:
    """Interface index -> what it can do with XDP (NETDEV_XDP_ACT_*); None before Linux 6.3."""
    # Where anything is told of, loopback is.
    return xdp_features() or None
