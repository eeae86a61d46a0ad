"""Networks where a device has two links, and sends by one of them or everything by both."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence

from support.waiting import until

from networks.ground import Ground
from networks.network import FAR, MEMBER, NEAR, PUBLISHER, Build, Network, Spaces, three
from tempos_bench.nodes.namespace import Namespace
from tempos_fastpath.network.netlink import Netlink, attribute, attributes, number

#: Makes the device of these ports, up, and gives its name.
Join = Callable[[Ground, Namespace, Sequence[str]], str]

_GENERIC, _CONTROL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 16, 3, 1, 2
_SET_OPTIONS, _TEAM, _OPTIONS, _OPTION = 1, 1, 2, 1
_NAME, _KIND, _DATA, _STRING, _U32 = 1, 3, 4, 5, 3
_ACK, _HEADER = 0x4, struct.Struct("=BBH")
#: What a client's ends of the links are called.
_FAR = ("near0", "near1")
#: A port that nobody has.
_NOBODY = 9


def _team_option(netlink: Netlink, team: str, option: str, kind: int, data: bytes) -> None:
    """What `teamd` and `teamnl` say to the kernel; no `ip` does."""
    told = _HEADER.pack(_GET_FAMILY, 1, 0) + attribute(_FAMILY_NAME, b"team\0")
    (answer,) = netlink.ask(_CONTROL, 0, [told])
    assert isinstance(answer, bytes), f"no family team: {answer}"
    family = number(attributes(answer, _HEADER.size).get(_FAMILY_ID))
    one = attribute(_NAME, option.encode() + b"\0") + attribute(_KIND, bytes([kind])) + attribute(_DATA, data)
    index = struct.pack("=I", socket.if_nametoindex(team))
    words = attribute(_TEAM, index) + attribute(_OPTIONS, attribute(_OPTION, one))
    (done,) = netlink.ask(family, _ACK, [_HEADER.pack(_SET_OPTIONS, 1, 0) + words])
    # What is set is told to everybody as well, and that nobody listens is the answer then.
    assert done in (0, -errno.ESRCH), f"{option} of {team}: {done!r}"


def team(mode: str) -> Join:
    """The kernel's other bond; where one port alone is active, the first, and all have the team's address.

    That is what `teamd` sees to: by itself a kernel does so in the other modes alone, and what comes for the
    team is for nobody.
    """

    def join(ground: Ground, space: Namespace, ports: Sequence[str]) -> str:
        address = f"02:00:{os.urandom(4).hex(':')}"
        ground.ip(space, f"link add team0 address {address} type team")

        def choose() -> None:
            with Netlink(_GENERIC) as netlink:
                _team_option(netlink, "team0", "mode", _STRING, mode.encode() + b"\0")

        def activate() -> None:
            with Netlink(_GENERIC) as netlink:
                first = struct.pack("=I", socket.if_nametoindex(ports[0]))
                _team_option(netlink, "team0", "activeport", _U32, first)

        space.call(choose)
        for port in ports:
            ground.ip(space, f"link set {port} down", f"link set {port} master team0",
                      f"link set {port} address {address}", f"link set {port} up")  # fmt: skip
        ground.ip(space, "link set team0 up")
        if mode == "activebackup":
            space.call(activate)
        return "team0"

    return join


def ring(words: str) -> Join:
    """Everything goes by both links, numbered, and is taken once (IEC 62439-3: HSR, PRP)."""

    def join(ground: Ground, space: Namespace, ports: Sequence[str]) -> str:
        ground.ip(
            space, f"link add hsr0 type hsr slave1 {ports[0]} slave2 {ports[1]} {words}", "link set hsr0 up"
        )
        return "hsr0"

    return join


HSR, PRP = ring("version 1"), ring("proto 1")


def mesh(ground: Ground, space: Namespace, ports: Sequence[str]) -> str:
    """A network that finds its own ways (B.A.T.M.A.N.)."""
    ground.ip(space, "link add bat0 type batadv", *(f"link set {port} master bat0" for port in ports),
              "link set bat0 up")  # fmt: skip
    return "bat0"


def joined_member(join: Join) -> Build:
    """Two links between broker and member, joined at both ends."""

    def build(ground: Ground) -> Network:
        spaces = three(ground)
        spaces.publisher_wired()
        _two_links(spaces, spaces.s, "eth1", "eth2")
        _join(spaces, join, spaces.s, ("eth1", "eth2"), FAR, MEMBER)
        return spaces.network()

    return build


def joined_publisher(join: Join) -> Build:
    """Two links between publisher and broker, joined at both ends."""

    def build(ground: Ground) -> Network:
        spaces = three(ground)
        _two_links(spaces, spaces.p, "eth0", "eth2")
        _join(spaces, join, spaces.p, ("eth0", "eth2"), NEAR, PUBLISHER)
        spaces.member_wired()
        return spaces.network()

    return build


def doubled_publisher(ground: Ground) -> Network:
    """The publisher sends everything by both links, and the broker's team takes what comes by one."""
    spaces = three(ground)
    _two_links(spaces, spaces.p, "eth0", "eth2")
    ground.address(spaces.p, team("broadcast")(ground, spaces.p, _FAR), PUBLISHER)
    ground.address(spaces.b, team("activebackup")(ground, spaces.b, ("eth0", "eth2")), NEAR)
    spaces.member_wired()
    return spaces.network()


def _two_links(spaces: Spaces, client: Namespace, *names: str) -> None:
    for far, name in zip(_FAR, names, strict=True):
        spaces.ground.link(spaces.b, name, client, far)


def _join(
    spaces: Spaces, join: Join, client: Namespace, ports: Sequence[str], ours: str, theirs: str
) -> None:
    ground = spaces.ground
    ground.address(spaces.b, join(ground, spaces.b, ports), ours)
    ground.address(client, join(ground, client, _FAR), theirs)

    def reached() -> bool:
        """A ring, or a mesh, has to get to know who is there: by the answer that nobody is at this port."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(1.0)
            asking.connect((ours, _NOBODY))
            asking.send(b"")
            try:
                asking.recv(1)
            except ConnectionRefusedError:
                return True
            except OSError:
                return False
        return False

    until(lambda: client.call(reached))
