"""The table of cases. Where a path is not given, the fast one must serve in its modes, else either may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from networks import devices, disturbances, machines, redundant, stacks
from networks.judge import Right
from networks.network import Build, straight
from tempos_fastpath.network.kernel import veth_skb_at
from tempos_fastpath.network.reading import told_features

MODES = ("native", "generic", "off")
FAST: Mapping[str, tuple[str, ...]] = {"native": ("fast",), "generic": ("fast",), "off": ("slow",)}
SLOW = dict.fromkeys(MODES, ("slow",))
#: Where the kernel says what drivers can do, and its veth shows tags (Linux 6.3), native mode serves VLANs.
_TOLD = told_features() is not None and veth_skb_at() is not None
SEEN = {"native": ("fast",) if _TOLD else ("fast", "slow"), "generic": ("fast",), "off": ("slow",)}
EITHER = {"native": ("fast", "slow"), "generic": ("fast", "slow"), "off": ("slow",)}


@dataclass(frozen=True)
class Case:
    """A network and what is right there.

    ``paths``: by mode those that may serve, the likely one first. ``says``: a pattern for what a broker
    says that waits for an address.
    """

    name: str
    build: Build
    right: Right = Right.ALL
    paths: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: FAST)
    groups: int = 1
    interfaces: tuple[str, ...] = ()
    blind: bool = False
    says: str = ""


CASES = (
    Case("straight", straight),
    Case("straight, two groups", straight, groups=2, paths={**FAST, "generic": ("fast", "slow")}),
    Case("member behind a veth whose peer has GRO off", devices.gro_off,
         paths={**FAST, "native": ("slow",)}),
    Case("member in a VLAN", devices.vlan_member, paths=SEEN),
    Case("member in a VLAN, XDP towards the publisher only", devices.vlan_member, paths=EITHER,
         interfaces=("eth0",)),
    Case("members in a VLAN, two groups", devices.vlan_member, groups=2,
         paths={**SEEN, "generic": ("fast", "slow")}),
    Case("publisher in a VLAN", devices.vlan_publisher, paths=SEEN),
    Case("publisher in a VLAN, two groups", devices.vlan_publisher, groups=2,
         paths={**SEEN, "generic": ("fast", "slow")}),
    Case("publisher in a VLAN, XDP on the device below", devices.vlan_publisher, paths=EITHER,
         interfaces=("eth0",)),
    Case("publisher and member in VLANs of one link", devices.vlan_both, paths=SEEN),
    Case("publisher in a VLAN, broker also untagged", devices.vlan_and_untagged, paths=SEEN),
    Case("publisher untagged, broker also in a VLAN", devices.untagged_beside_vlan, paths=SEEN),
    Case("frames of a VLAN that is not the broker's", devices.foreign_vlan, Right.NONE, EITHER, blind=True),
    Case("frames with a priority tag", devices.priority_tag, paths=EITHER, blind=True),
    Case("member behind a bond, active-backup", devices.bonded_member("active-backup"), paths=EITHER),
    Case("member behind a bond, balance-rr", devices.bonded_member("balance-rr"), paths=EITHER),
    Case("publisher behind a bond, active-backup", devices.bonded_publisher("active-backup"), paths=EITHER),
    Case("publisher behind a bond, balance-rr", devices.bonded_publisher("balance-rr"), paths=EITHER),
    Case("member behind a bond, 802.3ad", devices.bonded_member("802.3ad"), paths=EITHER),
    Case("publisher behind a bond, 802.3ad", devices.bonded_publisher("802.3ad"), paths=EITHER),
    Case("member behind a bond, broadcast", devices.bonded_member("broadcast"), paths=EITHER),
    Case("member behind a bond that hashes VLANs",
         devices.bonded_member("balance-xor xmit_hash_policy vlan+srcmac"), paths=EITHER),
    Case("member in a VLAN on a bond", stacks.tagged_bond_member, paths=EITHER),
    Case("publisher in a VLAN on a bond", stacks.tagged_bond_publisher, paths=EITHER),
    Case("member in a VLAN inside a VLAN", stacks.twice_tagged_member, paths=EITHER),
    Case("publisher in a VLAN inside a VLAN", stacks.twice_tagged_publisher, paths=EITHER),
    Case("publisher in a VLAN inside a VLAN, XDP on the device below", stacks.twice_tagged_publisher,
         paths=EITHER, interfaces=("eth0",)),
    Case("member at a port of a VLAN of a bridge", stacks.filtered_member, paths=EITHER),
    Case("publisher at a port of a VLAN of a bridge", stacks.filtered_publisher, paths=EITHER),
    Case("publisher at a port of a VLAN of a bridge, XDP on the port", stacks.filtered_publisher,
         paths=EITHER, interfaces=("eth0", "eth1")),
    Case("publisher at a port of another VLAN of a bridge, XDP on the port", stacks.foreign_filtered,
         Right.NONE, EITHER, interfaces=("eth0", "eth1"), blind=True),
    Case("publisher at a port that its bridge does not forward from, XDP on the port",
         devices.blocked_publisher, Right.NONE, EITHER, interfaces=("eth0", "eth1"), blind=True),
    Case("publisher behind a bond, XDP on its ports, one of them in reserve", devices.reserved_publisher,
         Right.ONCE, EITHER, interfaces=("eth0", "eth2", "eth1")),
    Case("member behind a bridge", devices.bridged_member, paths=EITHER),
    Case("publisher behind a bridge", devices.bridged_publisher, paths=EITHER),
    Case("member behind a bridge over a VLAN", stacks.tagged_bridge_member, paths=EITHER),
    Case("publisher behind a bridge over a VLAN", stacks.tagged_bridge_publisher, paths=EITHER),
    Case("publisher behind a bridge over a VLAN, XDP on the device below", stacks.tagged_bridge_publisher,
         paths=EITHER, interfaces=("eth0", "eth1")),
    Case("publisher behind a bridge over a bond, XDP on the bond's ports", stacks.bonded_bridge_publisher,
         Right.ONCE, EITHER, interfaces=("eth0", "eth2", "eth1")),
    Case("member behind a team", redundant.joined_member(redundant.team("activebackup")), paths=EITHER),
    Case("publisher behind a team", redundant.joined_publisher(redundant.team("activebackup")), paths=EITHER),
    Case("publisher behind a team, XDP on its ports, one of them in reserve", redundant.doubled_publisher,
         Right.ONCE, EITHER, interfaces=("eth0", "eth2", "eth1")),
    Case("member behind HSR", redundant.joined_member(redundant.HSR), paths=EITHER),
    Case("publisher behind HSR", redundant.joined_publisher(redundant.HSR), paths=EITHER),
    Case("member behind PRP", redundant.joined_member(redundant.PRP), paths=EITHER),
    Case("publisher behind PRP", redundant.joined_publisher(redundant.PRP), paths=EITHER),
    Case("publisher behind PRP, XDP on its ports", redundant.joined_publisher(redundant.PRP),
         Right.ONCE, EITHER, interfaces=("eth0", "eth2", "eth1")),
    Case("member behind a mesh", redundant.joined_member(redundant.mesh), paths=EITHER),
    Case("publisher behind a mesh", redundant.joined_publisher(redundant.mesh), paths=EITHER),
    Case("member is a virtual machine", machines.machine_member),
    Case("publisher is a virtual machine", machines.machine_publisher),
    Case("publisher is a virtual machine at a bridge, XDP on its tap", machines.bridged_machine_publisher,
         interfaces=("tap0", "eth1")),
    Case("member behind a macvlan", devices.above_member("macvlan mode bridge"), paths=EITHER),
    Case("publisher behind a bridge, XDP on its port", devices.bridged_publisher,
         interfaces=("eth0", "eth1")),
    Case("publisher behind a macvlan", devices.above_publisher("macvlan mode bridge"), paths=EITHER),
    Case("publisher behind a macvlan, XDP on what it stands on",
         devices.above_publisher("macvlan mode bridge"), interfaces=("eth0", "eth1")),
    Case("publisher behind a macvlan that alone answers ARP for it",
         devices.above_publisher("macvlan mode bridge", alone=True), paths={**FAST, "native": ("slow",)}),
    Case("publisher behind an ipvlan", devices.above_publisher("ipvlan mode l2"), paths=EITHER),
    Case("the broker's address is on a dummy", devices.dummy_of_broker, paths=EITHER),
    Case("the broker's address is on a dummy, and the links are named", devices.dummy_of_broker,
         interfaces=("eth0", "eth1")),
    Case("the broker's address is on loopback", devices.loopback_of_broker),
    Case("member behind an ipvlan", devices.above_member("ipvlan mode l2"), paths=EITHER),
    Case("publisher behind an ipvlan that routes", devices.above_publisher("ipvlan mode l3", routes=True),
         paths=EITHER),
    Case("member behind an ipvlan that routes", devices.above_member("ipvlan mode l3", routes=True),
         paths=EITHER),
    Case("member behind a VXLAN", stacks.tunnelled_member(stacks.vxlan), paths=EITHER),
    Case("publisher behind a VXLAN", stacks.tunnelled_publisher(stacks.vxlan), paths=EITHER),
    Case("member behind a Geneve tunnel", stacks.tunnelled_member(stacks.geneve), paths=EITHER),
    Case("member behind a GRE tunnel", stacks.tunnelled_member(stacks.gretap), paths=EITHER),
    Case("publisher behind a Geneve tunnel", stacks.tunnelled_publisher(stacks.geneve), paths=EITHER),
    Case("publisher behind a GRE tunnel", stacks.tunnelled_publisher(stacks.gretap), paths=EITHER),
    Case("member behind MACsec", stacks.tunnelled_member(stacks.macsec), paths=EITHER),
    Case("publisher behind MACsec", stacks.tunnelled_publisher(stacks.macsec), paths=EITHER),
    Case("member behind WireGuard", devices.wireguard_member, paths=SLOW),
    Case("publisher behind WireGuard", devices.wireguard_publisher, paths=SLOW),
    Case("broker outside the VRF of an address", devices.vrf_of_member, Right.WAITS, says=r"VRF"),
    Case("broker in a VRF", devices.vrf_of_broker),
    Case("broker in a VRF that has no loopback", devices.vrf_without_loopback, Right.WAITS,
         says=r"bound to blue.*ip address add 127\.0\.0\.1/8 dev blue"),
    Case("publisher in a VRF that is not the broker's", devices.foreign_vrf, Right.NONE, EITHER, blind=True),
    Case("link to the member loses 5 %", disturbances.netem_to_member("loss 5%"), Right.TOLD),
    Case("link to the member delays, by more and less", disturbances.netem_to_member("delay 20ms 15ms 25%")),
    Case("link to the member reorders", disturbances.netem_to_member("delay 10ms reorder 25% 50%")),
    Case("link to the member duplicates 5 %", disturbances.netem_to_member("duplicate 5%")),
    Case("link to the member corrupts 3 %", disturbances.netem_to_member("corrupt 3%"), Right.TOLD),
    Case("link from the publisher loses 5 %", disturbances.netem_from_publisher("loss 5%"), Right.TOLD),
    Case("link from the publisher reorders",
         disturbances.netem_from_publisher("delay 10ms reorder 25% 50%")),
    Case("link from the publisher duplicates 5 %", disturbances.netem_from_publisher("duplicate 5%")),
    Case("link from the publisher corrupts 3 %", disturbances.netem_from_publisher("corrupt 3%"), Right.TOLD),
    Case("queue on the broker's way out loses 20 %", disturbances.netem_at_broker("loss 20%"), Right.TOLD),
    Case("taprio on the broker's way out", disturbances.scheduled("--cycle", "10000", "--margin", "3000")),
    Case("etf on the broker's way out",
         disturbances.scheduled("--cycle", "10000", "--txtime", "--delta", "5000"), Right.TOLD),
)  # fmt: skip
