"""Networks with a device on top of another one, or with a tunnel that is an Ethernet, on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from networks.devices import bond, mac_of, tagged
from networks.ground import Ground
from networks.network import FAR, MEMBER, NEAR, PUBLISHER, Build, Network, Spaces, three
from tempos_bench.nodes.namespace import Namespace

#: Addresses of the link that carries a tunnel: the broker's, the client's.
_OUTSIDE, _OUTSIDE_CLIENT = "10.9.0.1", "10.9.0.2"
#: One end of a tunnel: the namespace, its interface, its own address outside, the other's.
_End = tuple[Namespace, str, str, str]


def _twice_tagged(spaces: Spaces, space: Namespace, below: str, address: str) -> None:
    """A customer's VLAN in one of a provider (802.1ad)."""
    outer = f"{below}.10"
    spaces.ground.ip(
        space, f"link add link {below} name {outer} type vlan proto 802.1ad id 10", f"link set {outer} up"
    )
    tagged(spaces, space, outer, 100, address)


def twice_tagged_member(ground: Ground) -> Network:
    """Broker and member are in a VLAN inside a VLAN."""
    spaces = three(ground)
    spaces.publisher_wired()
    ground.link(spaces.b, "eth1", spaces.s, "eth0")
    _twice_tagged(spaces, spaces.b, "eth1", FAR)
    _twice_tagged(spaces, spaces.s, "eth0", MEMBER)
    return spaces.network()


def twice_tagged_publisher(ground: Ground) -> Network:
    """Publisher and broker are in a VLAN inside a VLAN."""
    spaces = three(ground)
    ground.link(spaces.p, "eth0", spaces.b, "eth0")
    _twice_tagged(spaces, spaces.p, "eth0", PUBLISHER)
    _twice_tagged(spaces, spaces.b, "eth0", NEAR)
    spaces.member_wired()
    return spaces.network()


def _tagged_bond(spaces: Spaces, space: Namespace, ports: Sequence[str], address: str) -> None:
    bond(spaces.ground, space, "active-backup", ports)
    tagged(spaces, space, "bond0", 100, address)


def tagged_bond_member(ground: Ground) -> Network:
    """Two links between broker and member, bonded, and a VLAN on the bond: as servers are wired."""
    spaces = three(ground)
    spaces.publisher_wired()
    for near, far in (("eth1", "eth0"), ("eth2", "eth1")):
        ground.link(spaces.b, near, spaces.s, far)
    _tagged_bond(spaces, spaces.b, ("eth1", "eth2"), FAR)
    _tagged_bond(spaces, spaces.s, ("eth0", "eth1"), MEMBER)
    return spaces.network()


def tagged_bond_publisher(ground: Ground) -> Network:
    """The same between publisher and broker."""
    spaces = three(ground)
    for near, far in (("eth0", "eth0"), ("eth1", "eth2")):
        ground.link(spaces.p, near, spaces.b, far)
    _tagged_bond(spaces, spaces.p, ("eth0", "eth1"), PUBLISHER)
    _tagged_bond(spaces, spaces.b, ("eth0", "eth2"), NEAR)
    spaces.member_wired()
    return spaces.network()


def _filtering(ground: Ground, space: Namespace, port: str) -> None:
    """A bridge that keeps VLANs apart, with its own host in VLAN 100, untagged at the port."""
    ground.ip(
        space,
        "link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0",
        f"link set {port} master br0",
        "link set br0 up",
    )
    ground.run(space, "bridge", "vlan", "add", "dev", port, "vid", "100", "pvid", "untagged")
    ground.run(space, "bridge", "vlan", "add", "dev", "br0", "vid", "100", "self")


def filtered_member(ground: Ground) -> Network:
    """The broker has a VLAN device on a bridge; the member is at a port of that VLAN and sees no tag."""
    spaces = three(ground)
    spaces.publisher_wired()
    ground.link(spaces.b, "eth1", spaces.s, "eth0")
    _filtering(ground, spaces.b, "eth1")
    tagged(spaces, spaces.b, "br0", 100, FAR)
    ground.address(spaces.s, "eth0", MEMBER)
    return spaces.network()


def _filtered_publisher(ground: Ground) -> Spaces:
    spaces = three(ground)
    ground.link(spaces.p, "eth0", spaces.b, "eth0")
    _filtering(ground, spaces.b, "eth0")
    tagged(spaces, spaces.b, "br0", 100, NEAR)
    ground.address(spaces.p, "eth0", PUBLISHER)
    spaces.member_wired()
    return spaces


def filtered_publisher(ground: Ground) -> Network:
    """The same for the publisher: its frames come untagged, and are of a VLAN all the same."""
    return _filtered_publisher(ground).network()


def foreign_filtered(ground: Ground) -> Network:
    """The publisher is at a port of another VLAN than the broker's, and sends to its right address."""
    spaces = _filtered_publisher(ground)
    for words in ("add dev eth0 vid 200 pvid untagged", "del dev eth0 vid 100"):
        ground.run(spaces.b, "bridge", "vlan", *words.split())
    mac = mac_of(ground, spaces.b, "br0")
    ground.ip(spaces.p, f"neigh add {NEAR} lladdr {mac} dev eth0 nud permanent")
    return spaces.network()


def _bridge_over(ground: Ground, space: Namespace, below: str, address: str) -> None:
    ground.ip(space, "link add br0 type bridge", f"link set {below} master br0", "link set br0 up")
    ground.address(space, "br0", address)


def _tagged_bridge(ground: Ground, space: Namespace, below: str, address: str) -> None:
    """A bridge over a VLAN, as hosts of virtual machines have for each."""
    ground.ip(space, f"link add link {below} name {below}.100 type vlan id 100", f"link set {below}.100 up")
    _bridge_over(ground, space, f"{below}.100", address)


def tagged_bridge_member(ground: Ground) -> Network:
    """The broker's address towards the member is that of a bridge over a VLAN."""
    spaces = three(ground)
    spaces.publisher_wired()
    ground.link(spaces.b, "eth1", spaces.s, "eth0")
    _tagged_bridge(ground, spaces.b, "eth1", FAR)
    tagged(spaces, spaces.s, "eth0", 100, MEMBER)
    return spaces.network()


def tagged_bridge_publisher(ground: Ground) -> Network:
    """The same towards the publisher."""
    spaces = three(ground)
    ground.link(spaces.p, "eth0", spaces.b, "eth0")
    tagged(spaces, spaces.p, "eth0", 100, PUBLISHER)
    _tagged_bridge(ground, spaces.b, "eth0", NEAR)
    spaces.member_wired()
    return spaces.network()


def bonded_bridge_publisher(ground: Ground) -> Network:
    """The broker's address towards the publisher is that of a bridge over a bond."""
    spaces = three(ground)
    for near, far in (("eth0", "eth0"), ("eth1", "eth2")):
        ground.link(spaces.p, near, spaces.b, far)
    bond(ground, spaces.b, "active-backup", ("eth0", "eth2"))
    _bridge_over(ground, spaces.b, "bond0", NEAR)
    bond(ground, spaces.p, "active-backup", ("eth0", "eth1"))
    ground.address(spaces.p, "bond0", PUBLISHER)
    spaces.member_wired()
    return spaces.network()


# Tunnels that are Ethernets


def vxlan(ground: Ground, end: _End) -> None:
    space, name, mine, other = end
    ground.ip(space, f"link add over0 type vxlan id 7 local {mine} remote {other} dstport 4789 dev {name}")


def geneve(ground: Ground, end: _End) -> None:
    space, _, _, other = end
    ground.ip(space, f"link add over0 type geneve id 7 remote {other}")


def gretap(ground: Ground, end: _End) -> None:
    space, _, mine, other = end
    ground.ip(space, f"link add over0 type gretap local {mine} remote {other}")


def macsec(ground: Ground, end: _End) -> None:
    """Encrypted link by link (802.1AE), by keys that both ends were given."""
    space, name, mine, _ = end
    keys = {_OUTSIDE: "00" * 16, _OUTSIDE_CLIENT: "11" * 16}
    macs = {_OUTSIDE: "02:00:00:00:09:01", _OUTSIDE_CLIENT: "02:00:00:00:09:02"}
    (other,) = keys.keys() - {mine}
    ground.ip(
        space,
        f"link set {name} address {macs[mine]}",
        f"link add link {name} name over0 type macsec port 1 encrypt on",
        f"macsec add over0 tx sa 0 pn 1 on key 01 {keys[mine]}",
        f"macsec add over0 rx port 1 address {macs[other]}",
        f"macsec add over0 rx port 1 address {macs[other]} sa 0 pn 1 on key 02 {keys[other]}",
    )


Tunnel = Callable[[Ground, _End], None]


def tunnelled_member(tunnel: Tunnel) -> Build:
    """The member is behind a tunnel."""

    def build(ground: Ground) -> Network:
        spaces = three(ground)
        spaces.publisher_wired()
        ground.wire(spaces.b, "eth1", _OUTSIDE, spaces.s, "eth0", _OUTSIDE_CLIENT)
        _dig(ground, tunnel, spaces.b, "eth1", FAR, spaces.s, MEMBER)
        return spaces.network()

    return build


def tunnelled_publisher(tunnel: Tunnel) -> Build:
    """The publisher is behind a tunnel."""

    def build(ground: Ground) -> Network:
        spaces = three(ground)
        ground.wire(spaces.b, "eth0", _OUTSIDE, spaces.p, "eth0", _OUTSIDE_CLIENT)
        _dig(ground, tunnel, spaces.b, "eth0", NEAR, spaces.p, PUBLISHER)
        spaces.member_wired()
        return spaces.network()

    return build


def _dig(ground: Ground, tunnel: Tunnel, broker: Namespace, name: str, address: str, client: Namespace,
         client_address: str) -> None:  # fmt: skip
    tunnel(ground, (broker, name, _OUTSIDE, _OUTSIDE_CLIENT))
    tunnel(ground, (client, "eth0", _OUTSIDE_CLIENT, _OUTSIDE))
    ground.address(broker, "over0", address)
    ground.address(client, "over0", client_address)
