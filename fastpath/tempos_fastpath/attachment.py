"""One interface and the program there, or why there is none: what a status says of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tempos import InterfaceStatus
from tempos._abi import Tags
from tempos_bpf.links import XdpLink, XdpMode
from tempos_fastpath.network.gates import Gate
from tempos_fastpath.network.tags import Told
from tempos_fastpath.network.vlans import Vlan

NOTHING = Told(Tags.IN_FRAME)
CLOSED = Gate(())
GONE = "the interface is gone"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface: the link that holds the program there, or None, and why it is so.

    ``told``: how the program knows of VLAN tags. ``gate``: whose frames it takes. ``barred``: better modes
    that were refused because it could not, or because of the network that the interface is in.
    """

    interface: str
    ifindex: int
    link: XdpLink | None
    reason: str
    told: Told = NOTHING
    gate: Gate = CLOSED
    barred: tuple[XdpMode, ...] = ()

    def status(self, present: Collection[int]) -> InterfaceStatus:
        """The mode now; ``present`` are the indices of the interfaces that still exist."""
        if self.link is None:
            return InterfaceStatus(self.interface, "none", self.reason)
        if self.ifindex not in present:
            return InterfaceStatus(self.interface, "none", GONE)
        asks = "; the kernel is asked of each new source, whose events take the slow path meanwhile"
        shut = f"; nothing is taken there: {self.gate.shut}" if self.gate.shut else ""
        more = asks if self.gate.asks else shut
        return InterfaceStatus(self.interface, self.link.mode.value, self.reason + self._vlans_taken + more)

    @property
    def vlans(self) -> tuple[Vlan, ...]:
        """Whose tagged frames the program takes, in the stead of their devices."""
        return self.gate.vlans if self.link is not None and self.link.mode is XdpMode.NATIVE else ()

    @property
    def _vlans_taken(self) -> str:
        ids = ", ".join(str(each.id) for each in self.vlans)
        return f"; with {'VLAN' if len(self.vlans) == 1 else 'the VLANs'} {ids}" if ids else ""


def by_mode(failures: Mapping[str, Sequence[str]]) -> str:
    """Each reason once, with the modes that it holds for, if it is a matter of the mode."""
    return "; ".join(
        f"{' and '.join(modes)} mode: {reason}" if modes else reason for reason, modes in failures.items()
    )
