"""Where the XDP programs are attached, native where that goes, else generic, and what goes with them.

Every failure is kept as a reason; an attachment that is not ours is never touched. What an earlier broker
of the same identity left is taken over without a gap: the new program is loaded with the pinned maps, then
replaces the old one inside the pinned link. That is done last, by `take_over`: until then the start may
fail, and what is there is to forward on as if nobody had tried. A program is attached only where it knows
of VLAN tags that lie beside a frame (tags.py); how it knows may change with the network, and then another
one takes its place. Blocking.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from tempos import Unavailable
from tempos._abi import Tags
from tempos._remarks import Remark
from tempos.errors import one_line
from tempos_bpf.errors import InterfaceBusy, ProgramRefused
from tempos_bpf.links import XdpLink, XdpMode, attach_xdp
from tempos_bpf.maps import Map
from tempos_bpf.objects import Program
from tempos_fastpath import beside
from tempos_fastpath.attachment import CLOSED, GONE, NOTHING, Attachment, by_mode
from tempos_fastpath.beside import Beside
from tempos_fastpath.clone import MAPS as CLONE_MAPS
from tempos_fastpath.clone import Clones
from tempos_fastpath.errors import NotPinned
from tempos_fastpath.loading import Loader
from tempos_fastpath.network.facts import Facts, Interface
from tempos_fastpath.network.gates import Gate, gate_of
from tempos_fastpath.network.tags import Obstacle, Told, how_told
from tempos_fastpath.network.targets import unfit
from tempos_fastpath.network.vlans import taken_on
from tempos_fastpath.survival.orphans import refuse_if_owned
from tempos_fastpath.survival.ownership import Identity
from tempos_fastpath.survival.pins import LATENCY, MAPS, Kept, Pins, need_bpffs

_NONE_LEFT = Kept({}, ())
_log = logging.getLogger(__name__)
_MODES = {
    "auto": (XdpMode.NATIVE, XdpMode.GENERIC),
    "native": (XdpMode.NATIVE,),
    "generic": (XdpMode.GENERIC,),
}


class Programs:
    """Where the programs of a loader are attached.

    ``pin`` says whether to leave ``pins``; ``unpinned``, why none can be left as yet.
    ``reverse_path``: take no source that the host would drop by its way back.
    """

    def __init__(
        self,
        loader: Loader,
        *,
        identity: Identity,
        pins: Pins | None,
        pin: bool,
        reverse_path: bool,
        unpinned: str = "",
    ) -> None:
        self._loader = loader
        self._reverse_path = reverse_path
        self._identity = identity
        self._pins = pins
        self._pin = pin and pins is not None and not unpinned
        self._unpinned = unpinned
        self._beside: Beside | None = None
        self._clones: Clones | None = None
        #: Held by who changes what is attached: the copies of tc go by the settings of the XDP programs.
        self._changing = threading.Lock()
        self._kept = _NONE_LEFT
        #: Links of an earlier broker that are to be taken over, and those that nobody wants any more.
        self._due: dict[int, tuple[Interface, XdpLink]] = {}
        self._unwanted: dict[int, XdpLink] = {}
        self._taken = False
        self._mode = ""
        self._named = False
        self._heard: frozenset[int] = frozenset()
        #: Whether the verifier did not take a program that was to be attached.
        self._refused = False
        self._note = ""
        self._no_copies = Remark(_log, "copies for several groups are made by tc again")
        self.attachments: tuple[Attachment, ...] = ()

    @property
    def adopted(self) -> bool:
        """Whether the maps are those of an earlier broker."""
        return bool(self._kept.maps)

    @property
    def inherited(self) -> bool:
        """Whether an earlier broker left any link."""
        return bool(self._kept.links)

    @property
    def pinned(self) -> bool:
        """Whether all this outlives the process."""
        return self._pin

    @property
    def native(self) -> bool:
        """Whether any interface runs the program in its driver."""
        return bool(self._natives)

    @property
    def _natives(self) -> tuple[Attachment, ...]:
        return tuple(each for each in self.attachments if each.link and each.link.mode is XdpMode.NATIVE)

    @property
    def carrying(self) -> frozenset[int]:
        """The interfaces whose frames programs see, there or below, where they take the tagged ones."""
        there = [each for each in self.attachments if each.link]
        return frozenset(each.ifindex for each in there).union(
            vlan.ifindex for each in there for vlan in each.vlans
        )

    @property
    def generic(self) -> tuple[str, ...]:
        """The interfaces where it runs in generic mode, in which it makes no copies."""
        return tuple(e.interface for e in self.attachments if e.link and e.link.mode is XdpMode.GENERIC)

    @property
    def no_broadcast(self) -> str:
        """Why XDP cannot make the copies for several groups; empty if it can."""
        # What comes in where another one is in generic mode is copied by tc, or by the slow path.
        if self.generic and not self.native:
            return "in generic mode they would share their bytes"
        return "" if self._loader.broadcasts else "this kernel cannot broadcast into a devmap"

    @property
    def note(self) -> str:
        """What a status should add."""
        unpinned = f"; not pinned, so it ends with the broker: {self._unpinned}" if self._unpinned else ""
        return f"{self._note}{unpinned}{self._loader.note}"

    @property
    def deliver(self) -> Program:
        """What the copies pass on their way out."""
        return self._loader.deliver

    @property
    def interfaces(self) -> Mapping[str, int]:
        """Name and index of each interface that carries the program."""
        return {each.interface: each.ifindex for each in self.attachments if each.link}

    @property
    def listen(self) -> tuple[str, ...]:
        """The addresses that programs take for ours."""
        return self._loader.listen

    @property
    def _cleaned(self) -> bool:
        """Whether somebody removed our pins (`tempos fastpath clean --force`): then it stays off."""
        return self._pin and self._pins is not None and self._pins.gone

    @property
    def measures(self) -> bool:
        """Whether there is a map ``latency``."""
        return self._loader.measures

    @property
    def restless(self) -> bool:
        """Whether programs pass everything until :meth:`mend` has seen to what was heard."""
        return self._beside is not None and self._beside.news is not None

    def map(self, name: str) -> Map:
        return self._loader.map(name)

    def attach(
        self, interfaces: Sequence[Interface | str], mode: str, facts: Facts, *, named: bool = False
    ) -> None:
        """Attach to each interface (a name: it does not exist), but to those that an earlier broker holds.

        Those only get their program ready. Where none is there yet, :meth:`mend` attaches as they come.
        Unless they are ``named`` by somebody, a VLAN device's frames are taken on the card below where they
        can be.
        Raises Unavailable if those that are there take none, :class:`Owned` if another broker's fast path,
        living or dead, holds one of them.
        """
        self._mode, self._named = mode, named
        if self._pins is not None:
            self._kept = self._pins.read(self._loader.rows)
            self._note = self._kept.note
            self._loader.adopt(self._kept.maps)
        self._unwanted = {link.ifindex: link for link in self._kept.links}
        for interface in self._with_cards(interfaces, facts):
            if isinstance(interface, str):
                attachment = Attachment(interface, 0, None, "there is no such interface")
            elif interface.index in self._unwanted:
                attachment = self._prepare(interface, facts, self._unwanted[interface.index])
                if attachment.link is not None:
                    self._due[interface.index] = interface, self._unwanted.pop(interface.index)
            else:
                attachment = self._attach_one(interface, facts)
            self.attachments += (attachment,)
        if self.interfaces:
            return
        if any(each.ifindex for each in self.attachments):
            raise Unavailable(f"XDP could be attached to no interface: {self._refusals()}")
        # None is there yet. Whether the kernel takes the program is known now, all the same.
        self._loader.program(_MODES[mode][0], NOTHING.tags, CLOSED)

    def take_over(self, facts: Facts) -> None:
        """Put the program where an earlier broker's was, take that one off elsewhere, and pin all that.

        From here on what is there is ours.
        """
        self._taken = True
        # Before it runs: its first packet must not find user space gone.
        self._loader.stamp()
        self.attachments = tuple(self._take_over(each, facts) for each in self.attachments)
        for link in self._unwanted.values():
            link.detach()
        self._unwanted.clear()
        self._settle_pins()
        self._take_over_clones()

    def clone(self) -> None:
        """See to it that the tc program makes copies wherever the XDP program hands events on to it.

        Raises Unavailable where it cannot be had.
        """
        with self._changing:
            if self._clones is None:
                self._clones = self._load_clones()
            self._clones.serve(self._cloning_at())

    def relisten(self, listen: Sequence[str], facts: Facts) -> None:
        """Take for ours what is for these addresses, and nothing else."""
        with self._changing:
            self._loader.relisten(listen)
            self._load_ahead(facts)
            self.attachments = tuple(self._renew_one(each, facts) for each in self.attachments)
            self._serve_clones("tc takes nothing where it is for former addresses")

    def _load_ahead(self, facts: Facts) -> None:
        """Load what is to take the place of the programs that are attached, all at a time."""
        there = [each for each in self.attachments if each.link and each.ifindex in facts.interfaces]
        gates = {each.ifindex: self._gate(facts.interfaces[each.ifindex], facts) for each in there}
        self._loader.prepare({(each.link.mode, each.told.tags, gates[each.ifindex])
                              for each in there if each.link})  # fmt: skip

    def _renew_one(self, attachment: Attachment, facts: Facts) -> Attachment:
        if attachment.link is None or attachment.ifindex not in facts.interfaces:
            return attachment
        try:
            gate = self._gate(facts.interfaces[attachment.ifindex], facts)
            program = self._program(attachment.link.mode, attachment.told, gate)
            with self._copies_go_with(attachment, gate):
                attachment.link.update(program)
        except Unavailable as error:
            # Rather none than one that takes what is another's.
            attachment.link.detach()
            return replace(attachment, link=None, reason=one_line(error))
        return replace(attachment, gate=gate)

    def mend(self, facts: Facts, wanted: Collection[Interface] = ()) -> bool:
        """Let go of interfaces that are gone, attach where one came back; whether anything changed.

        ``wanted``: interfaces that are to have a program by now; those that have one keep it.
        """
        with self._changing:
            return self._mend(facts, wanted)

    def _mend(self, facts: Facts, wanted: Collection[Interface]) -> bool:
        news = self._beside.news if self._beside is not None else None
        if self._beside is not None:
            # What is heard of where nobody listens any more stays known, else it would all begin again.
            self._heard = (self._heard | self._beside.heard()) & facts.interfaces.keys()
        mended = tuple(self._mend_one(each, facts) for each in self.attachments)
        before, self.attachments = self.attachments, mended
        wanted = [each for each in self._with_cards(wanted, facts) if isinstance(each, Interface)]
        names = {each.interface for each in mended} | {facts.interfaces[each.ifindex].name for each in mended
                                                       if each.ifindex in facts.interfaces}  # fmt: skip
        mended += tuple(
            self._attach_again(each.name, each, facts) for each in wanted if each.name not in names
        )
        mended = self._without_covered(mended)
        self.attachments = mended
        if self._beside is not None:
            self._beside.restrict({index for each in mended if each.link for index in each.told.heard_at})
            if news is not None:
                self._beside.settle(news)
        self._serve_clones("events for several groups may take the slow path")
        self._loader.keep({(each.link.mode, each.told.tags, each.gate) for each in mended if each.link})
        return mended != before

    def pin_late(self) -> bool:
        """Pin what could not be pinned before, if it can by now; whether that was so."""
        if not self._unpinned or self._pins is None or not self._taken:
            return False
        try:
            need_bpffs()
        except NotPinned as error:
            self._unpinned = one_line(error)
            return False
        # What may be there of an earlier broker was of no use to this one.
        self._pins.remove()
        self._pin, self._unpinned = True, ""
        self._settle_pins()
        if self._pin and self._clones is not None:
            self._clones.pin(self._pins)
        return self._pin

    def close(self, *, keep: bool = False) -> None:
        """Detach everywhere and remove the pins, or ``keep`` both; then let go. Safe to call twice.

        Before :meth:`take_over`, what an earlier broker left stays as it was, and only that.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._kept.close_maps)
            stack.callback(self._loader.close)
            if self._beside is not None:
                stack.callback(self._beside.close)
            if self._clones is not None:
                stack.callback(self._clones.close, keep=keep)
            if self._pins is not None and self._taken and not keep:
                stack.callback(self._pins.remove)
            due = [link for _, link in self._due.values()]
            theirs = [] if self._taken else [*self._unwanted.values(), *due]
            for link in theirs:
                stack.callback(link.close)
            for attachment in self.attachments:
                if attachment.link is not None and attachment.link not in theirs:
                    stack.callback(attachment.link.close if keep else attachment.link.detach)

    def _prepare(self, interface: Interface, facts: Facts, link: XdpLink) -> Attachment:
        """Load what is to take the place of an earlier broker's program; in which mode, is seen to again."""
        failures: dict[str, list[str]] = {}
        if why := unfit(interface, facts):
            return Attachment(interface.name, interface.index, None, why, barred=_MODES[self._mode])
        for mode in dict.fromkeys((link.mode, *_MODES[self._mode])):
            if mode not in _MODES[self._mode]:
                continue
            told = self._told(interface, facts, mode)
            if isinstance(told, Obstacle):
                failures.setdefault(told.reason, []).append(mode.value)
                continue
            gate = self._gate(interface, facts)
            try:
                self._program(mode, told, gate)
            except Unavailable as error:
                failures.setdefault(one_line(error), []).append(mode.value)
                self._refused |= isinstance(error, ProgramRefused)
            else:
                return Attachment(interface.name, interface.index, link, "an earlier broker's", told, gate)
        return Attachment(interface.name, interface.index, None, by_mode(failures))

    def _take_over(self, attachment: Attachment, facts: Facts) -> Attachment:
        """Put ours into the link of an earlier broker, if there is one that may stay."""
        if attachment.ifindex not in self._due:
            return attachment
        interface, link = self._due[attachment.ifindex]
        told, gate = self._told(interface, facts, link.mode), self._gate(interface, facts)
        try:
            if link.mode in _MODES[self._mode] and isinstance(told, Told):
                link.update(self._program(link.mode, told, gate))
                reason = f"taken over in {link.mode.value} mode from an earlier broker"
                return Attachment(interface.name, interface.index, link, reason, told, gate)
            # Two modes at a time the kernel does not have: meanwhile all comes up to the slow path.
            link.detach()
            return self._attach_one(interface, facts)
        except Unavailable as error:
            link.detach()
            return Attachment(interface.name, interface.index, None, one_line(error))

    def _with_cards(self, interfaces: Iterable[Interface | str], facts: Facts) -> tuple[Interface | str, ...]:
        """Each once, in place of a VLAN device the card where its frames are taken."""
        cards = (
            each if self._named or isinstance(each, str) else self._card_of(each, facts) or each
            for each in interfaces
        )
        return tuple(dict.fromkeys(cards))

    def _card_of(self, device: Interface, facts: Facts) -> Interface | None:
        """The card on which a native program takes what is for a VLAN device; None: there is none."""
        card = facts.interfaces.get(device.link)
        if card is None or not card.runs_native or XdpMode.NATIVE not in _MODES[self._mode]:
            return None
        if device not in taken_on(card, facts):
            return None
        if any(each.ifindex == card.index and each not in self._natives for each in self.attachments):
            return None
        return card if isinstance(self._told(card, facts, XdpMode.NATIVE), Told) else None

    def _without_covered(self, attachments: tuple[Attachment, ...]) -> tuple[Attachment, ...]:
        """Those that are still to be: of a VLAN device whose frames are taken below, there is nothing."""
        covered = set() if self._named else {vlan.ifindex for each in attachments for vlan in each.vlans}
        for each in attachments:
            if each.link is not None and each.ifindex in covered:
                each.link.detach()
        return tuple(each for each in attachments if each.ifindex not in covered)

    def _mend_one(self, attachment: Attachment, facts: Facts) -> Attachment:
        name, link = attachment.interface, attachment.link
        interface = facts.by_name(name)
        if link is not None and attachment.ifindex in facts.interfaces and link.attached:
            if interface is None or interface.index != attachment.ifindex:
                # It has another name by now, and goes on under the one that it was attached by.
                interface = facts.interfaces[attachment.ifindex]
            return self._keep_right(attachment, link, interface, facts)
        if link is not None:
            link.detach()
            by_hand = attachment.ifindex in facts.interfaces and self._cleaned
            attachment = (
                Attachment(name, attachment.ifindex, None, "taken off by hand")
                if by_hand
                else Attachment(name, 0, None, GONE)
            )
        if interface is None:
            return attachment
        if interface.index == attachment.ifindex and not self._opens(attachment, interface, facts):
            return attachment
        return self._attach_again(name, interface, facts)

    def _keep_right(
        self, attachment: Attachment, link: XdpLink, interface: Interface, facts: Facts
    ) -> Attachment:
        """See to it that an attached program is still the right one for its interface."""
        if not self._opens(attachment, interface, facts):
            told, gate = self._told(interface, facts, link.mode), self._gate(interface, facts)
            if (told, gate) == (attachment.told, attachment.gate):
                return attachment
            if isinstance(told, Told):
                with contextlib.suppress(Unavailable):
                    program = self._program(link.mode, told, gate)
                    with self._copies_go_with(attachment, gate):
                        link.update(program)
                    return replace(attachment, told=told, gate=gate)
        # Another mode, then: for a moment events come up to the slow path.
        link.detach()
        return self._attach_again(attachment.interface, interface, facts)

    def _opens(self, attachment: Attachment, interface: Interface, facts: Facts) -> bool:
        """Whether a better mode, which was refused before it was tried, can be had now."""
        return any(isinstance(self._told(interface, facts, mode), Told) for mode in attachment.barred)

    def _attach_again(self, name: str, interface: Interface, facts: Facts) -> Attachment:
        try:
            attachment = self._attach_one(interface, facts)
        except Unavailable as error:
            attachment = Attachment(interface.name, interface.index, None, one_line(error))
        attachment = replace(attachment, interface=name)
        if attachment.link is not None and self._pin and self._pins is not None:
            try:
                if self._beside is not None:
                    self._beside.pin(self._pins)
                self._pins.put_link(attachment.link)
            except NotPinned as error:
                self._note = f"; {interface.name} is not pinned ({one_line(error)})"
        return attachment

    def _attach_one(self, interface: Interface, facts: Facts) -> Attachment:
        failures: dict[str, list[str]] = {}
        barred: tuple[XdpMode, ...] = ()
        wish = "the driver takes XDP" if self._mode == "auto" else "as configured"
        if why := unfit(interface, facts):
            return Attachment(interface.name, interface.index, None, why, barred=_MODES[self._mode])
        gate = self._gate(interface, facts)
        for candidate in _MODES[self._mode]:
            told = self._told(interface, facts, candidate)
            if isinstance(told, Obstacle):
                failures.setdefault(told.reason, []).append(candidate.value)
                barred += (candidate,)
                continue
            try:
                link = attach_xdp(self._program(candidate, told, gate), interface.index, candidate)
            except InterfaceBusy as busy:
                refuse_if_owned(interface.index, interface.name, self._identity)
                # Another mode beside a foreign program would disturb it, if the kernel allowed it at all.
                failures.setdefault(one_line(busy), [])
                break
            except Unavailable as error:
                failures.setdefault(one_line(error), []).append(candidate.value)
                self._refused |= isinstance(error, ProgramRefused)
            else:
                reason = by_mode(failures) or wish
                return Attachment(interface.name, interface.index, link, reason, told, gate, barred)
        return Attachment(interface.name, interface.index, None, by_mode(failures), barred=barred)

    def _told(self, interface: Interface, facts: Facts, mode: XdpMode) -> Told | Obstacle:
        if why := unfit(interface, facts):
            return Obstacle(why)
        return how_told(interface, facts, mode, readable=self._loader.reads_veth, heard=self._heard)

    def _gate(self, interface: Interface, facts: Facts) -> Gate:
        return gate_of(interface, facts, reverse_path=self._reverse_path)

    def _program(self, mode: XdpMode, told: Told, gate: Gate) -> Program:
        """The program for that, after whatever must run before it does."""
        program = self._loader.program(mode, told.tags, gate)
        if mode is XdpMode.GENERIC or told.heard_at:
            try:
                if self._beside is None:
                    maps = {name: self.map(name) for name in beside.MAPS}
                    adopt = self._pins if self._pin and self.adopted else None
                    self._beside = Beside(self._identity, maps, adopt)
                if mode is XdpMode.GENERIC:
                    self._beside.note()
                self._beside.listen(told.heard_at)
            except Unavailable as error:
                raise Unavailable(f"VLAN tags beside a frame would be missed: {one_line(error)}") from error
        return program

    def _refusals(self) -> str:
        """Why nothing could be attached: each reason once, with the interfaces that it holds for."""
        names: dict[str, list[str]] = {}
        for each in self.attachments:
            names.setdefault(each.reason, []).append(each.interface)
        text = "; ".join(f"{', '.join(interfaces)}: {reason}" for reason, interfaces in names.items())
        return f"{text}; the verifier's whole log: tempos doctor --log" if self._refused else text

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
            if self._beside is not None:
                self._beside.pin(self._pins)
            else:
                beside.drop_others(self._pins)
            for attachment in self.attachments:
                if attachment.link is not None and not attachment.link.pinned:
                    self._pins.put_link(attachment.link)
            if not self.adopted:
                self._pins.put_maps({name: self.map(name) for name in MAPS})
            if not self.measures:
                self._pins.drop(LATENCY)
            elif LATENCY not in self._kept.maps:
                self._pins.put_map(LATENCY, self.map(LATENCY))
        except NotPinned as error:
            self._pin = False
            self._unpinned = one_line(error)

    def _take_over_clones(self) -> None:
        """Go on with the tc program of an earlier broker, if there is one, whether needed again or not."""
        links = tuple(self._pins.tc_links()) if self._pins is not None and self._pin else ()
        if not links:
            return
        try:
            self._clones = self._load_clones()
            self._clones.adopt(links)
            self._clones.serve(self._cloning_at())
        except Unavailable as error:
            # An older program goes by maps that may not be ours: rather none.
            for link in links:
                link.detach()
            self._note += f"; the earlier broker's tc program was taken off: {one_line(error)}"

    def _copies_go_with(self, attachment: Attachment, gate: Gate) -> contextlib.AbstractContextManager[None]:
        """In which a program with this gate takes the place of the one there: what copies by tc follows."""
        if self._clones is None:
            return contextlib.nullcontext()
        return self._clones.replaced(attachment.ifindex, self._cloning_by(gate))

    def _serve_clones(self, otherwise: str) -> None:
        """Have tc copies where they are wanted, by the settings of now; where that fails, say what then."""
        if self._clones is None:
            return
        try:
            self._clones.serve(self._cloning_at())
        except Unavailable as error:
            # What it would have copied comes up to the slow path.
            self._no_copies(f"{otherwise}: {one_line(error)}")
        else:
            self._no_copies.gone()

    def _load_clones(self) -> Clones:
        shared = {name: self.map(name) for name in (*CLONE_MAPS, *([LATENCY] if self.measures else []))}
        return Clones(shared, self._pins if self._pin else None)

    def _cloning_at(self) -> dict[int, bytes]:
        """Where XDP programs are, and what the tc program beside each goes by."""
        there = [each for each in self.attachments if each.link]
        # What comes in by a VLAN device it sees there.
        devices = {vlan.ifindex: replace(each.gate, asks=vlan.asks) for each in there for vlan in each.vlans}
        gates = {each.ifindex: each.gate for each in there} | devices
        return {ifindex: self._cloning_by(gate) for ifindex, gate in gates.items()}

    def _cloning_by(self, gate: Gate) -> bytes:
        # It looks at socket buffers, which hide nothing, and have no tag where it is for a VLAN device.
        return self._loader.settings(XdpMode.NATIVE, Tags.IN_FRAME, replace(gate, vlans=()))
