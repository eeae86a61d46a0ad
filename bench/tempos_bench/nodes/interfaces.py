"""One network interface as it is really set: driver, MTU, queues, rings, offloads.

Must be called inside the namespace of the interface; what a driver does not know is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tempos import Unavailable

#: The offloads that change what a datagram costs, by ethtool's names.
_OFFLOADS = (
    "rx-checksum", "tx-checksum-ip-generic", "rx-gro", "rx-gro-list", "rx-udp-gro-forwarding",
    "tx-generic-segmentation", "tx-udp-segmentation", "tx-tcp-segmentation", "tx-scatter-gather",
)  # fmt: skip
#: struct ptr_ring of drivers/net/veth.c (VETH_RING_SIZE): a constant that no interface tells.
_VETH_RING = 256


def describe(name: str) -> dict[str, Any]:
    """The interface as a JSON object; needs pyroute2."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        link = ip.get_links(ip.link_lookup(ifname=name)[0])[0]
    info = link.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info else None
    found = {
        "name": name,
        "kind": kind or "device",
        "mtu": link.get_attr("IFLA_MTU"),
        "rx_queues": link.get_attr("IFLA_NUM_RX_QUEUES"),
        "tx_queues": link.get_attr("IFLA_NUM_TX_QUEUES"),
        "tx_queue_length": link.get_attr("IFLA_TXQLEN"),
        "qdisc": link.get_attr("IFLA_QDISC"),
    }
    found |= {"rx_ring": _VETH_RING, "offloads": _offloads(name)} if kind == "veth" else _device(name)
    return {key: value for key, value in found.items() if value is not None}


def _device(name: str) -> dict[str, Any]:
    """What only real devices have; each driver answers what it knows and refuses the rest."""
    found: dict[str, Any] = {"offloads": _offloads(name)}
    with _ethtool() as ethtool:
        rings = ethtool.get_rings(name)
        found |= {"rx_ring": rings.rx, "tx_ring": rings.tx}
    with _ethtool() as ethtool:
        found["coalescing_rx_usecs"] = ethtool.get_coalesce(name).rx_coalesce_usecs
    return found


def _offloads(name: str) -> list[str]:
    """Those of our list that are on."""
    features: dict[str, Any] = {}
    with _ethtool() as ethtool:
        features = ethtool.get_features(name).features
    return [offload for offload in _OFFLOADS if offload in features and features[offload].enable]


@contextmanager
def _ethtool() -> Iterator[Any]:
    """A way to ask; what is refused inside is left out."""
    from pyroute2 import Ethtool
    from pyroute2.netlink.exceptions import NetlinkError

    with suppress(NetlinkError, OSError, AttributeError), Ethtool() as ethtool:
        yield ethtool


def carrying(address: str) -> str:
    """The name of the interface that has this IPv4 address; raises :class:`Unavailable` if none has."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        for found in ip.get_addr(address=address):
            name: str = ip.get_links(found["index"])[0].get_attr("IFLA_IFNAME")
            return name
    raise Unavailable(f"no interface has the address {address}")


def program(name: str) -> int:
    """The id of the XDP program that an interface carries; 0 if none."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        xdp = ip.get_links(ip.link_lookup(ifname=name)[0])[0].get_attr("IFLA_XDP")
        return int(xdp.get_attr("IFLA_XDP_PROG_ID") or 0) if xdp else 0
