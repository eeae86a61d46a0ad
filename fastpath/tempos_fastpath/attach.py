"""Loading the program and attaching it, native where it goes, else generic; the maps are shared by both.

The program exists once per mode, because what it does with a partial checksum is fixed when it is
loaded. Every failure is kept as a reason; an attachment that is not ours is never touched. What an
earlier broker of the same identity left is taken over without a gap: the new program is loaded with the
pinned maps, then replaces the old one inside the pinned link. Where latency is to be measured, another
program of the object is attached, so that the usual one has nothing of it. Blocking.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tempos import InterfaceStatus, Unavailable
from tempos.errors import one_line
from tempos_bpf.errors import BpfError, InterfaceBusy, ProgramRefused
from tempos_bpf.links import XdpLink, XdpMode, attach_xdp
from tempos_bpf.maps import Map
from tempos_bpf.objects import BpfObject, Program, Verdict
from tempos_fastpath.clone import MAPS as CLONE_MAPS
from tempos_fastpath.clone import Clones
from tempos_fastpath.errors import NotPinned, Owned
from tempos_fastpath.facts import Facts, Interface
from tempos_fastpath.layout import encode_settings
from tempos_fastpath.orphans import holder_of
from tempos_fastpath.ownership import Identity
from tempos_fastpath.pins import LATENCY, MAPS, Kept, Pins
from tempos_fastpath.pulse import stamp

OBJECT = Path(__file__).with_name("fastpath.bpf.o")
PROGRAM = "tempos_fastpath"
#: The same program with a view of latency.
TIMED = "tempos_timed"
DELIVER = "tempos_deliver"
_TRY_BROADCAST = "tempos_try_broadcast"
_GONE = "the interface is gone"
_NONE_LEFT = Kept({}, ())
_log = logging.getLogger(__name__)
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
            return InterfaceStatus(self.interface, "none", _GONE)
        return InterfaceStatus(self.interface, self.link.mode.value, self.reason)


class Programs:
    """The loaded programs, one per mode in use, and where they are attached.

    ``pins`` is None where there is no BPF file system; ``pin`` says whether to leave pins there. ``latency``:
    measure it, if the kernel lets us.
    """

    def __init__(
        self,
        listen: Sequence[str],
        port: int,
        *,
        identity: Identity,
        pins: Pins | None,
        pin: bool,
        gone_after_ns: int,
        latency: bool,
    ) -> None:
        self._listen = tuple(listen)
        self._port = port
        self._identity = identity
        self._pins = pins
        self._pin = pin and pins is not None
        self._gone_after_ns = gone_after_ns
        self._timed = latency
        self._objects: dict[XdpMode, BpfObject] = {}
        self._clones: Clones | None = None
        self._cloning = threading.Lock()
        self._kept = _NONE_LEFT
        self._mode = ""
        self._broadcasts = False
        #: Whether the verifier did not take a program that was to be attached.
        self._refused = False
        self.attachments: tuple[Attachment, ...] = ()
        #: What a status should add.
        self.note = ""

    @property
    def adopted(self) -> bool:
        """Whether the maps are those of an earlier broker."""
        return bool(self._kept.maps)

    @property
    def pinned(self) -> bool:
        """Whether all this outlives the process."""
        return self._pin

    @property
    def native(self) -> bool:
        """Whether any interface runs the program in its driver."""
        return any(each.link and each.link.mode is XdpMode.NATIVE for each in self.attachments)

    @property
    def no_broadcast(self) -> str:
        """Why XDP cannot make the copies for several groups; empty if it can."""
        if any(each.link and each.link.mode is XdpMode.GENERIC for each in self.attachments):
            return "in generic mode they would share their bytes"
        return "" if self._broadcasts else "this kernel cannot broadcast into a devmap"

    @property
    def deliver(self) -> Program:
        """What the copies pass on their way out."""
        return next(iter(self._objects.values())).program(DELIVER)

    @property
    def interfaces(self) -> Mapping[str, int]:
        """Name and index of each interface that carries the program."""
        return {each.interface: each.ifindex for each in self.attachments if each.link}

    @property
    def _cleaned(self) -> bool:
        """Whether somebody removed our pins (`tempos fastpath clean --force`): then it stays off."""
        return self._pin and self._pins is not None and self._pins.gone

    @property
    def measures(self) -> bool:
        """Whether there is a map ``latency``."""
        return self._timed

    def map(self, name: str) -> Map:
        return next(iter(self._objects.values())).map(name)

    def attach(self, interfaces: Sequence[Interface | str], mode: str) -> None:
        """Attach to each interface (a name: it does not exist); raises Unavailable if to none.

        Raises :class:`Owned` if another broker's fast path, living or dead, holds one of them.
        """
        self._mode = mode
        if self._pins is not None:
            self._kept = self._pins.read()
            self.note = self._kept.note
        left = {link.ifindex: link for link in self._kept.links}
        try:
            for interface in interfaces:
                if isinstance(interface, str):
                    attachment = Attachment(interface, 0, None, "there is no such interface")
                else:
                    attachment = self._take_over(interface, left.get(interface.index))
                    if attachment.link is not None and attachment.link is left.get(interface.index):
                        del left[interface.index]
                self.attachments += (attachment,)
        finally:
            for link in left.values():
                link.detach()
        if not self.interfaces:
            raise Unavailable(f"XDP could be attached to no interface: {self._refusals()}")
        self._settle_pins()
        self._take_over_clones()

    def clone(self) -> None:
        """See to it that the tc program makes copies wherever the XDP program hands events on to it.

        Raises Unavailable where it cannot be had.
        """
        with self._cloning:
            if self._clones is None:
                self._clones = self._load_clones()
            self._clones.serve(self.interfaces.values())

    def mend(self, facts: Facts) -> bool:
        """Let go of interfaces that are gone, attach where one came back; whether anything changed."""
        mended = tuple(self._mend_one(each, facts) for each in self.attachments)
        changed = mended != self.attachments
        self.attachments = mended
        if self._clones is not None:
            try:
                self._clones.serve(self.interfaces.values())
            except Unavailable as error:
                # What it would have copied comes up to the slow path.
                _log.warning("events for several groups may take the slow path: %s", one_line(error))
        return changed

    def close(self, *, keep: bool = False) -> None:
        """Detach everywhere and remove the pins, or ``keep`` both; then let go. Safe to call twice."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._kept.close_maps)
            for each in self._objects.values():
                stack.callback(each.close)
            if self._clones is not None:
                stack.callback(self._clones.close, keep=keep)
            if self._pins is not None and not keep:
                stack.callback(self._pins.remove)
            for attachment in self.attachments:
                if attachment.link is not None:
                    stack.callback(attachment.link.close if keep else attachment.link.detach)
        self._objects.clear()

    def _take_over(self, interface: Interface, link: XdpLink | None) -> Attachment:
        """Attach to an interface that may carry the link of an earlier broker of ours."""
        if link is not None:
            if link.mode in _MODES[self._mode]:
                link.update(self._program(link.mode))
                reason = f"taken over in {link.mode.value} mode from an earlier broker"
                return Attachment(interface.name, interface.index, link, reason)
            link.detach()
        return self._attach_one(interface)

    def _mend_one(self, attachment: Attachment, facts: Facts) -> Attachment:
        name, link = attachment.interface, attachment.link
        if link is not None and attachment.ifindex in facts.interfaces and link.attached:
            return attachment
        if link is not None:
            link.detach()
            by_hand = attachment.ifindex in facts.interfaces and self._cleaned
            attachment = (
                Attachment(name, attachment.ifindex, None, "taken off by hand")
                if by_hand
                else Attachment(name, 0, None, _GONE)
            )
        interface = facts.by_name(name)
        if interface is None or interface.index == attachment.ifindex:
            return attachment
        try:
            attachment = self._attach_one(interface)
        except Unavailable as error:
            attachment = Attachment(name, interface.index, None, one_line(error))
        if attachment.link is not None and self._pin and self._pins is not None:
            try:
                self._pins.put_link(attachment.link)
            except NotPinned as error:
                self.note = f"; {name} is not pinned ({one_line(error)})"
        return attachment

    def _attach_one(self, interface: Interface) -> Attachment:
        failures: dict[str, list[str]] = {}
        wish = "the driver takes XDP" if self._mode == "auto" else "as configured"
        if not interface.ethernet:
            return Attachment(interface.name, interface.index, None, "it is not an Ethernet interface")
        for candidate in _MODES[self._mode]:
            try:
                link = attach_xdp(self._program(candidate), interface.index, candidate)
            except InterfaceBusy as busy:
                self._refuse_if_owned(interface)
                # Another mode beside a foreign program would disturb it, if the kernel allowed it at all.
                failures.setdefault(one_line(busy), [])
                break
            except Unavailable as error:
                failures.setdefault(one_line(error), []).append(candidate.value)
                self._refused |= isinstance(error, ProgramRefused)
            else:
                reason = _by_mode(failures) or wish
                return Attachment(interface.name, interface.index, link, reason)
        return Attachment(interface.name, interface.index, None, _by_mode(failures))

    def _refusals(self) -> str:
        """Why nothing could be attached: each reason once, with the interfaces that it holds for."""
        names: dict[str, list[str]] = {}
        for each in self.attachments:
            names.setdefault(each.reason, []).append(each.interface)
        text = "; ".join(f"{', '.join(interfaces)}: {reason}" for reason, interfaces in names.items())
        return f"{text}; the verifier's whole log: tempos doctor --log" if self._refused else text

    def _refuse_if_owned(self, interface: Interface) -> None:
        holder = holder_of(interface.index, self._identity)
        if holder is None:
            return
        name = holder.identity.name
        if holder.alive:
            raise Owned(
                f"{interface.name} belongs to the fast path of the broker {name!r} (process {holder.pid}); "
                "stop that one, or leave the interface out in fastpath.interfaces"
            )
        raise Owned(
            f"{interface.name} still carries the fast path of the broker {name!r}, which is gone; start that "
            f"one again, or remove what it left: tempos fastpath clean {name}"
        )

    def _settle_pins(self) -> None:
        """Leave pins of what is in force now, or none."""
        if self._pins is None:
            return
        try:
            if not self._pin:
                for attachment in self.attachments:
                    if attachment.link is not None:
                        attachment.link.unpin()
                self._pins.remove()
                return
            for attachment in self.attachments:
                if attachment.link is not None and not attachment.link.pinned:
                    self._pins.put_link(attachment.link)
            if not self.adopted:
                self._pins.put_maps({name: self.map(name) for name in MAPS})
            if not self._timed:
                self._pins.drop_map(LATENCY)
            elif LATENCY not in self._kept.maps:
                self._pins.put_map(LATENCY, self.map(LATENCY))
        except NotPinned as error:
            self._pin = False
            self.note += f"; not pinned, so it ends with the broker: {one_line(error)}"

    def _take_over_clones(self) -> None:
        """Go on with the tc program of an earlier broker, if there is one, whether needed again or not."""
        links = tuple(self._pins.tc_links()) if self._pins is not None and self._pin else ()
        if not links:
            return
        try:
            self._clones = self._load_clones()
            self._clones.adopt(links)
            self._clones.serve(self.interfaces.values())
        except Unavailable as error:
            # An older program goes by maps that may not be ours: rather none.
            for link in links:
                link.detach()
            self.note += f"; the earlier broker's tc program was taken off: {one_line(error)}"

    def _load_clones(self) -> Clones:
        shared = {name: self.map(name) for name in (*CLONE_MAPS, *([LATENCY] if self._timed else []))}
        return Clones(self._settings(generic=False), shared, self._pins if self._pin else None)

    def _settings(self, *, generic: bool) -> bytes:
        return encode_settings(self._port, self._listen, generic=generic, gone_after_ns=self._gone_after_ns)

    def _program(self, mode: XdpMode) -> Program:
        return self._load(mode).program(TIMED if self._timed else PROGRAM)

    def _open(self, mode: XdpMode) -> BpfObject:
        rodata = {"settings": self._settings(generic=mode is XdpMode.GENERIC)}
        first = next(iter(self._objects.values()), None)
        share = self._kept.maps if first is None else {name: first.map(name) for name in MAPS}
        if self._timed:
            if first is not None:
                share = {**share, LATENCY: first.map(LATENCY)}
            try:
                return BpfObject(OBJECT, rodata, share, also=[TIMED])
            except BpfError as error:
                # Both modes' programs are of one kind, and so is what the first of them has settled.
                if first is not None:
                    raise
                refusal = one_line(error)
                self._timed = False
        else:
            refusal = ""
        share = {name: each for name, each in share.items() if name != LATENCY}
        plain = BpfObject(OBJECT, rodata, share, without=[LATENCY])
        if refusal:
            self.note += f"; latency is not measured: {refusal}"
        return plain

    def _load(self, mode: XdpMode) -> BpfObject:
        if mode not in self._objects:
            self._objects[mode] = self._open(mode)
            trial = self._objects[mode].program(_TRY_BROADCAST).run(bytes(64))
            self._broadcasts = trial.verdict == Verdict.REDIRECT
            # Before the program runs anywhere: its first packet must not find user space gone.
            with contextlib.closing(self.map("pulse").mmap()) as pulse:
                stamp(pulse)
        return self._objects[mode]


def _by_mode(failures: Mapping[str, Sequence[str]]) -> str:
    """Each reason once, with the modes that it holds for, if it is a matter of the mode."""
    return "; ".join(
        f"{' and '.join(modes)} mode: {reason}" if modes else reason for reason, modes in failures.items()
    )
