"""Two links of the trials' own namespace, and frames into the one and out of the other.

    pub0 ═══ near0 (10.77.1.1)   the broker   far0 (10.77.2.1) ═══ sub0

The far ends have no address: what a publisher would send is written to `pub0` as it is, what a member would
get is read off `sub0`.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import time

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from tempos import DATA_PORT, Unavailable

PUBLISHER, BROKER, MEMBER = "10.77.1.2", "10.77.1.1", "10.77.2.2"
NEAR, FAR = "near0", "far0"
_ENDS = {NEAR: ("pub0", BROKER), FAR: ("sub0", "10.77.2.1")}
#: Of our own giving: /sys shows the devices of the namespace that it was mounted in.
_MACS = {name: f"02:77:00:00:00:{number:02x}" for number, name in enumerate((NEAR, "pub0", FAR, "sub0"))}
_MEMBER_PORT = 9999
_SIOCETHTOOL, _ETHTOOL_SGRO = 0x8946, 0x2C
_NUD_PERMANENT = 0x80
_SO_RCVBUFFORCE = 33
_ETH_P_IP = 0x0800
_UDP = 17


def build() -> None:
    """Make the links, for the calling process's namespace. Raises :class:`~tempos.Unavailable`."""
    try:
        _build()
    except (OSError, NetlinkError) as error:
        raise Unavailable(f"no veth links for the trials: {error}") from error


def _build() -> None:
    with IPRoute() as route:
        for name, (peer, address) in _ENDS.items():
            ends = {"ifname": peer, "address": _MACS[peer]}
            route.link("add", ifname=name, address=_MACS[name], kind="veth", peer=ends)
            route.addr("add", index=socket.if_nametoindex(name), address=address, prefixlen=24)
            for each in (name, peer):
                route.link("set", index=socket.if_nametoindex(each), state="up")
                # Without it, and once it is up, a veth's peer takes no redirected frames.
                _receive_offload(each)
        far = socket.if_nametoindex(FAR)
        route.neigh("add", dst=MEMBER, ifindex=far, lladdr=_MACS["sub0"], state=_NUD_PERMANENT)


class Ends:
    """The outer ends of both links."""

    def __init__(self) -> None:
        self._pub = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._pub.bind(("pub0", 0))
        self._sub = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_IP))
        # A frame that XDP copied takes a page of it, however short it is.
        self._sub.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
        self._sub.bind(("sub0", _ETH_P_IP))

    def send(self, payload: bytes) -> None:
        """As a publisher would, to the broker's data port."""
        udp = struct.pack("!HHHH", _MEMBER_PORT, DATA_PORT, 8 + len(payload), 0) + payload
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, _UDP, 0,
            socket.inet_aton(PUBLISHER), socket.inet_aton(BROKER),
        )  # fmt: skip
        head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
        macs = bytes.fromhex((_MACS[NEAR] + _MACS["pub0"]).replace(":", ""))
        self._pub.send(macs + struct.pack("!H", _ETH_P_IP) + head + udp)

    def count(self, wanted: int, limit: float) -> int:
        """How many events for the member arrived, once it is as many as wanted or the limit (s) is over."""
        end, found = time.monotonic() + limit, 0
        while found < wanted and (left := end - time.monotonic()) > 0:
            self._sub.settimeout(left)
            try:
                frame = self._sub.recv(2048)
            except TimeoutError:
                break
            found += frame[30:34] == socket.inet_aton(MEMBER) and frame[23] == _UDP
        return found

    def close(self) -> None:
        self._pub.close()
        self._sub.close()


def member() -> tuple[str, int]:
    """Where events are to arrive."""
    return MEMBER, _MEMBER_PORT


def _receive_offload(name: str) -> None:
    """Switch GRO on, as `ethtool -K NAME gro on` does."""
    value = array.array("I", [_ETHTOOL_SGRO, 1])
    request = struct.pack("16sP16x", name.encode(), value.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, request)


def _checksum(head: bytes) -> int:
    """Of an IPv4 header whose own field is 0."""
    total = int(sum(struct.unpack(f"!{len(head) // 2}H", head)))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
