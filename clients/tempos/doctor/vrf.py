"""Inside of a VRF: `ip vrf exec` has the kernel bind each new socket of a process, and of those it starts.

Such sockets know the VRF's addresses and ways and no others; 127.0.0.1 is among them once it was given to the
VRF's own device.
"""

from __future__ import annotations

import socket


def bound_to() -> str:
    """The interface that the kernel binds each socket of this process to; empty for none."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            name = probe.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
    except (OSError, AttributeError):
        # The interface is gone, or no system has such sockets but Linux.
        return ""
    return name.rstrip(b"\0").decode(errors="replace")


def situation(device: str) -> str:
    """That a program finds itself in there, in words."""
    return f"the sockets of this program are bound to {device}, as inside of a VRF"


def remedy(device: str, address: str) -> str:
    """How the VRF is given an address that was looked for in vain."""
    host = f"{address}/8" if address.startswith("127.") else f"{address}/LENGTH"
    return f"`ip address add {host} dev {device}` gives it to the VRF"
