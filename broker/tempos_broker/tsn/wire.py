"""How many bytes a UDP datagram takes on an Ethernet link, and how long: IEEE 802.3, clauses 3 and 4.

Rule kept here: whatever cannot be known is taken at its worst, and times are rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Preamble and start delimiter, before each frame.
PREAMBLE = 8
#: Both MAC addresses and the type.
HEADER = 14
#: IEEE 802.1Q.
TAG = 4
FCS = 4
#: Between two frames nothing is sent for as long as so many bytes take.
GAP = 12
#: A shorter frame, from its header to its FCS, is padded to this.
MIN_FRAME = 64
IPV4 = 20
UDP = 8
#: What of a frame the kernel does not count as its length.
NOT_COUNTED = PREAMBLE + FCS + GAP
#: The smallest MTU of IPv4 (RFC 791), and the largest that an interface can have.
MIN_MTU, MAX_MTU = 68, 65535


@dataclass(frozen=True, slots=True)
class Link:
    """A link of ``mbit`` Mbit/s whose frames carry IP packets of at most ``mtu`` bytes.

    ``tagged``: with a VLAN tag. It may be put in after padding, so the smallest frame grows with it.
    """

    mbit: int
    mtu: int = 1500
    tagged: bool = False

    @property
    def largest_payload(self) -> int:
        """The most bytes of UDP payload that one frame carries."""
        return self.mtu - IPV4 - UDP

    @property
    def largest(self) -> int:
        """The bytes on the wire of the largest frame."""
        return self.frame(self.largest_payload)

    @property
    def smallest(self) -> int:
        """The bytes on the wire of the smallest frame, padding and all."""
        return self.frame(0)

    def frame(self, payload: int) -> int:
        """The bytes on the wire of one datagram, the gap after it included."""
        tag = TAG if self.tagged else 0
        length = max(MIN_FRAME + tag, HEADER + tag + IPV4 + UDP + payload + FCS)
        return PREAMBLE + length + GAP

    def ns(self, wire_bytes: int) -> int:
        """How long so many bytes take, in nanoseconds, rounded up: a byte takes 8,000 / ``mbit``."""
        return -(-wire_bytes * 8000 // self.mbit)
