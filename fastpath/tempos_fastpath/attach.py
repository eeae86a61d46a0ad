"""Loading the program and attaching it, native where it goes, else generic; the maps are shared by both.

The program exists once per mode, because what it does with a partial checksum is fixed when it is
loaded. Every failure is kept as a reason; an attachment that is not ours is never touched. Blocking.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tempos import InterfaceStatus, Unavailable
from tempos_fastpath.bpf import BpfObject, XdpLink, XdpMode, attach_xdp
from tempos_fastpath.errors import InterfaceBusy
from tempos_fastpath.facts import Interface
from tempos_fastpath.layout import encode_settings
from tempos_fastpath.maps import Map

OBJECT = Path(__file__).with_name("fastpath.bpf.o")
PROGRAM = "tempos_fastpath"
_SHARED = ("routes", "tickets", "egress", "counters")
_MODES = {
    "auto": (XdpMode.NATIVE, XdpMode.GENERIC),
    "native": (XdpMode.NATIVE,),
    "generic": (XdpMode.GENERIC,),
}


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface: the link that holds the program there, or None, and why it is so."""

    interface: str
    ifindex: int
    link: XdpLink | None
    reason: str

    def status(self, present: Collection[int]) -> InterfaceStatus:
        """The mode now; ``present`` are the indices of the interfaces that still exist."""
        if self.link is None:
            return InterfaceStatus(self.interface, "none", self.reason)
        if self.ifindex not in present:
            return InterfaceStatus(self.interface, "none", "the interface is gone")
        return InterfaceStatus(self.interface, self.link.mode.value, self.reason)


class Programs:
    """The loaded programs, one per mode in use, and where they are attached."""

    def __init__(self, listen: Sequence[str], port: int) -> None:
        self._listen = tuple(listen)
        self._port = port
        self._objects: dict[XdpMode, BpfObject] = {}
        self.attachments: tuple[Attachment, ...] = ()

    @property
    def native(self) -> bool:
        """Whether any interface runs the program in its driver."""
        return any(each.link and each.link.mode is XdpMode.NATIVE for each in self.attachments)

    def map(self, name: str) -> Map:
        return next(iter(self._objects.values())).map(name)

    def attach(self, interfaces: Sequence[Interface | str], mode: str) -> None:
        """Attach to each interface (a name: it does not exist); raises Unavailable if to none."""
        for interface in interfaces:
            if isinstance(interface, str):
                attachment = Attachment(interface, 0, None, "there is no such interface")
            else:
                attachment = self._attach_one(interface, mode)
            self.attachments += (attachment,)
        if not any(each.link for each in self.attachments):
            reasons = "; ".join(f"{each.interface}: {each.reason}" for each in self.attachments)
            raise Unavailable(f"XDP could be attached to no interface: {reasons}")

    def close(self) -> None:
        """Detach everywhere, then let go of programs and maps; safe to call twice."""
        with contextlib.ExitStack() as stack:
            for each in self._objects.values():
                stack.callback(each.close)
            for attachment in self.attachments:
                if attachment.link is not None:
                    stack.callback(attachment.link.close)
        self._objects.clear()

    def _attach_one(self, interface: Interface, mode: str) -> Attachment:
        failures: list[str] = []
        wish = "the driver takes XDP" if mode == "auto" else "as configured"
        if not interface.ethernet:
            return Attachment(interface.name, interface.index, None, "it is not an Ethernet interface")
        for candidate in _MODES[mode]:
            try:
                program = self._load(candidate).program(PROGRAM)
                link = attach_xdp(program, interface.index, candidate)
            except InterfaceBusy as busy:
                # Another mode beside a foreign program would disturb it, if the kernel allowed it at all.
                failures.append(one_line(busy))
                break
            except Unavailable as error:
                failures.append(f"{candidate.value} mode: {one_line(error)}")
            else:
                reason = "; ".join(failures) or wish
                return Attachment(interface.name, interface.index, link, reason)
        return Attachment(interface.name, interface.index, None, "; ".join(failures))

    def _load(self, mode: XdpMode) -> BpfObject:
        if mode not in self._objects:
            settings = encode_settings(self._port, self._listen, generic=mode is XdpMode.GENERIC)
            share = {name: self.map(name) for name in _SHARED} if self._objects else {}
            self._objects[mode] = BpfObject(OBJECT, {"settings": settings}, share)
        return self._objects[mode]


def one_line(error: BaseException) -> str:
    """An error's text as one line for a status table."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
