"""Networks with virtual machines: what they send and get goes through a program that holds their cards."""

from __future__ import annotations

import fcntl
import os
import selectors
import struct
import subprocess
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

from networks.ground import Ground, Lacking
from networks.network import FAR, MEMBER, NEAR, PUBLISHER, Network, three
from tempos_bench.nodes.namespace import Namespace

_DEVICE = Path("/dev/net/tun")
_SET_INTERFACE, _SET_OFFLOAD = 0x400454CA, 0x400454D0
_TAP, _NO_INFO, _HEADER = 0x0002, 0x1000, 0x4000
_CHECKSUMS = 1
_LONGEST = 1 << 17


def machine(ground: Ground, host: Namespace, host_name: str, guest: Namespace, guest_name: str) -> None:
    """A tap at the host and a card in the machine, both up, with one program between them.

    As of a machine with virtio: checksums that nobody needs are computed by nobody.
    """
    # Where nobody has asked for it yet, the device may be missing; where nothing is a module, so is modprobe.
    with suppress(FileNotFoundError):
        subprocess.run(("modprobe", "-q", "tun"), check=False)
    if not _DEVICE.exists():
        raise Lacking(f"{_DEVICE} is not here")
    cards = (host, host_name), (guest, guest_name)
    ends = [space.call(partial(_tap, name)) for space, name in cards]
    stop, stopped = os.pipe()
    relay = threading.Thread(target=_relay, args=(*ends, stop), name="machine", daemon=True)
    relay.start()

    def end() -> None:
        os.close(stopped)
        relay.join()
        for each in (*ends, stop):
            os.close(each)

    ground.at_end(end)
    for space, name in cards:
        ground.ip(space, f"link set {name} up")


def _tap(name: str) -> int:
    handle = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(handle, _SET_INTERFACE, struct.pack("16sH22x", name.encode(), _TAP | _NO_INFO | _HEADER))
    fcntl.ioctl(handle, _SET_OFFLOAD, _CHECKSUMS)
    return handle


def _relay(near: int, far: int, stop: int) -> None:
    with selectors.DefaultSelector() as ready:
        for here, there in ((near, far), (far, near), (stop, -1)):
            ready.register(here, selectors.EVENT_READ, there)
        while True:
            for key, _ in ready.select():
                if key.data < 0:
                    return
                frame = os.read(key.fd, _LONGEST)
                # As long as the other end is not up it takes none.
                with suppress(OSError):
                    os.write(key.data, frame)


def machine_member(ground: Ground) -> Network:
    """The member is a virtual machine, and the broker's address on its tap."""
    spaces = three(ground)
    spaces.publisher_wired()
    machine(ground, spaces.b, "eth1", spaces.s, "eth0")
    ground.address(spaces.b, "eth1", FAR)
    ground.address(spaces.s, "eth0", MEMBER)
    return spaces.network()


def machine_publisher(ground: Ground) -> Network:
    """The publisher is a virtual machine, and the broker's address on its tap."""
    spaces = three(ground)
    machine(ground, spaces.b, "eth0", spaces.p, "eth0")
    ground.address(spaces.b, "eth0", NEAR)
    ground.address(spaces.p, "eth0", PUBLISHER)
    spaces.member_wired()
    return spaces.network()


def bridged_machine_publisher(ground: Ground) -> Network:
    """The publisher is a virtual machine at a bridge of the broker's host."""
    spaces = three(ground)
    machine(ground, spaces.b, "tap0", spaces.p, "eth0")
    ground.ip(spaces.b, "link add br0 type bridge", "link set tap0 master br0")
    ground.address(spaces.b, "br0", NEAR)
    ground.address(spaces.p, "eth0", PUBLISHER)
    spaces.member_wired()
    return spaces.network()
