"""Which interfaces answer ARP for addresses that stand on others.

Linux does so wherever what is asked for is its own, unless something forbids it: `arp_ignore`, `arp_filter`,
or that it would drop what came in there (`rp_filter`, rules). Neighbours then send to whichever answered.
It is looked at where hosts ask: an interface has a network that such an address is in.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

from tempos_fastpath.network.facts import Destination, Interface
from tempos_fastpath.network.netlink import Address, Netlink

#: Of a network that is one address.
_HOST = 32
_SETTINGS = Path("/proc/sys/net/ipv4/conf")
#: Values of `arp_ignore` with which an interface answers for addresses of others (3: not for those of the
#: host alone; 4 to 7 are kept for later, and forbid nothing).
_ANSWERS = frozenset({0, 3, 4, 5, 6, 7})


def answers(
    netlink: Netlink, interfaces: Mapping[int, Interface], addresses: Iterable[Address]
) -> dict[int, tuple[str, ...]]:
    """Interface index -> addresses of other interfaces that it answers for to the hosts of its network."""
    had = [(each, ipaddress.IPv4Address(each.ip)) for each in addresses]
    ours = {each.ip for each, _ in had}
    networks = {
        (each.interface, ipaddress.IPv4Network((each.ip, each.length), strict=False))
        for each, _ in had
        if each.length < _HOST
    }
    asked = []
    for index, network in sorted(networks, key=str):
        interface = interfaces[index]
        if not interface.ethernet or not interface.up or interface.master:
            continue
        others = [each.ip for each, ip in had if each.interface != index and ip in network]
        # Some host that may ask.
        hosts = (str(host) for host in islice(network.hosts(), len(ours) + 1))
        host = next((host for host in hosts if host not in ours), None)
        if others and host is not None and _setting(interface, "arp_ignore") in _ANSWERS:
            asked += [(interface, host, other) for other in others]
    if not asked:
        return {}
    taken = netlink.takes([(interface.index, host, other) for interface, host, other in asked])
    back = netlink.routes([Destination(host, other) for _, host, other in asked])
    found: dict[int, list[str]] = {}
    for (interface, _, other), takes, way in zip(asked, taken, back, strict=True):
        filtered = way.interface != interface.index and _setting(interface, "arp_filter")
        if takes and not filtered and other not in found.setdefault(interface.index, []):
            found[interface.index].append(other)
    return {index: tuple(each) for index, each in found.items() if each}


def _setting(interface: Interface, name: str) -> int:
    """The larger of an interface's own and that of all; 0 where it cannot be read."""
    values = [0]
    for place in ("all", interface.name):
        try:
            values.append(int((_SETTINGS / place / name).read_text()))
        except (OSError, ValueError):
            # It has gone since it was listed.
            continue
    return max(values)
