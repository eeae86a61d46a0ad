"""What the interfaces of this machine could do for the fast path.

They are only looked at: some cards lose their link for seconds when a program is attached. Where the kernel
does not say what a driver can, that is unknown, unless it was asked to be tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tempos import DATA_PORT, TemposError, Unavailable
from tempos.doctor import Asked, Tried
from tempos.errors import one_line

if TYPE_CHECKING:
    from tempos_fastpath.network.facts import Facts, Interface
    from tempos_fastpath.survival.orphans import Installed

#: NETDEV_XDP_ACT_BASIC and _REDIRECT of <linux/netdev.h>: a program runs in the driver, and may redirect.
_NATIVE = 0x3
_PEER = "ethtool -K ITS-PEER gro on    # where the peer is, while that is up"
_NOT_TOLD = "before Linux 6.3 nobody says what a driver can"


def gather(asked: Asked) -> Iterator[Tried]:
    """Each interface that is asked for, or every one that is up and could serve a broker started here."""
    if asked.mode == "off":
        return
    try:
        from tempos_fastpath.network import netdev, reading
        from tempos_fastpath.network.targets import unfit
        from tempos_fastpath.survival.orphans import installed
        from tempos_fastpath.survival.ownership import current_namespace

        facts = reading.read_facts()
        features = netdev.xdp_features()
        here = current_namespace()
        held = {
            name: each
            for each in installed()
            if each.identity.namespace == here
            for name, _ in each.interfaces
        }
    except (ImportError, TemposError, OSError):
        # The kernel's area says why.
        return
    try:
        wanted = _wanted(asked, facts)
    except Unavailable as error:
        yield Tried("TD203", False, one_line(error))
        return
    for interface in wanted:
        if isinstance(interface, str):
            yield Tried("TD201", False, "there is no such interface", interface)
            continue
        if why := unfit(interface, facts):
            yield Tried("TD201", False, why, interface.name)
            continue
        card = _card_below(interface, asked, facts)
        if card is not None:
            cause = f"native mode: a program on {card.name}, which it stands on, takes its tagged frames"
            yield Tried("TD201", True, cause, interface.name)
        else:
            yield _mode(interface, asked, features, held.get(interface.name))
        yield _redirects(card or interface, asked)


def _card_below(interface: Interface, asked: Asked, facts: Facts) -> Interface | None:
    """The card where a VLAN device's frames are taken by a broker that is told no interfaces."""
    from tempos_bpf.links import XdpMode
    from tempos_fastpath.network.kernel import veth_skb_at
    from tempos_fastpath.network.tags import Told, how_told
    from tempos_fastpath.network.vlans import taken_on

    card = facts.interfaces.get(interface.link)
    if asked.interfaces or asked.mode == "generic" or card is None or not card.runs_native:
        return None
    told = how_told(card, facts, XdpMode.NATIVE, readable=veth_skb_at() is not None)
    return card if interface in taken_on(card, facts) and isinstance(told, Told) else None


def _wanted(asked: Asked, facts: Facts) -> list[Interface | str]:
    from tempos_fastpath.network.targets import listen_addresses, targets_of, unfit

    if asked.interfaces or asked.listen:
        listen, _ = listen_addresses(asked.listen, facts) if asked.listen else ((), "")
        return targets_of(asked.interfaces, listen or asked.listen, facts)
    return [each for each in facts.interfaces.values() if each.up and not unfit(each, facts)]


def _mode(interface: Interface, asked: Asked, features: Mapping[int, int], held: Installed | None) -> Tried:
    """The mode that the XDP program would run in there."""
    name = interface.name
    if held is not None:
        return _held(held, name)
    if foreign := _foreign(interface):
        return Tried("TD201", False, foreign, name)
    if asked.attach:
        return _attached(interface, asked)
    down = "" if interface.up else ", but it is down"
    if interface.index not in features:
        if asked.mode == "generic":
            return Tried("TD201", True, f"generic mode, which needs nothing of the driver{down}", name)
        again = f"tempos doctor --attach -i {name}"
        return Tried("TD201", None, f"{_NOT_TOLD}{down}", name, means="native or generic mode", fix=again)
    native = features[interface.index] & _NATIVE == _NATIVE
    if asked.mode == "generic":
        though = ", though the driver has XDP" if native else ""
        return Tried("TD201", True, f"generic mode{though}{down}", name)
    if native:
        return Tried("TD201", True, f"native mode: the driver has XDP{down}", name)
    return Tried("TD201", asked.mode == "auto", f"generic mode only: the driver has no XDP{down}", name)


def _held(held: Installed, name: str) -> Tried:
    mode = dict(held.interfaces)[name]
    broker = f"the fast path of the broker {held.identity.name!r}"
    if held.alive:
        return Tried("TD201", True, f"{mode} mode, by {broker} (process {held.pid})", name)
    fix = f"tempos fastpath clean {held.identity.name}"
    return Tried("TD201", False, f"{broker}, which is gone, still forwards there in {mode} mode", name,
                 means="events go by its last routes until it is started again", fix=fix)  # fmt: skip


def _foreign(interface: Interface) -> str:
    """Whose program, none of ours, is there already; empty if there is none, or nobody may be asked."""
    from tempos_bpf.links import query_xdp

    try:
        found = query_xdp(interface.index)
    except Unavailable:
        return ""
    if found is None:
        return ""
    return f"it carries the XDP program {found.name!r} (id {found.program_id}), which is not ours and stays"


def _attached(interface: Interface, asked: Asked) -> Tried:
    """Try it: a program that listens on no address, and so passes everything on, for a moment."""
    from tempos_bpf.links import XdpMode, attach_xdp
    from tempos_bpf.objects import BpfObject
    from tempos_fastpath.layout import encode_settings
    from tempos_fastpath.loading import OBJECT, PROGRAM
    from tempos_fastpath.network.gates import Gate

    refused: list[str] = []
    for mode in XdpMode:
        if asked.mode not in ("auto", mode.value):
            continue
        settings = encode_settings(DATA_PORT, (), Gate(()), generic=mode is XdpMode.GENERIC)
        try:
            with BpfObject(OBJECT, {"settings": settings}) as loaded:
                attach_xdp(loaded.program(PROGRAM), interface.index, mode).close()
        except Unavailable as error:
            refused.append(f"{mode.value} mode: {one_line(error)}")
        else:
            return Tried("TD201", True, "; ".join([f"{mode.value} mode, tried", *refused]), interface.name)
    return Tried("TD201", False, "; ".join(refused), interface.name)


def _redirects(interface: Interface, asked: Asked) -> Tried:
    """Whether events can leave by it in native mode."""
    takes = interface.takes_redirects
    if takes is None and asked.attach and interface.up:
        from tempos_fastpath.network.trial import try_redirect

        verdict = try_redirect(interface)
        cause = f"it does not take redirected frames: {verdict.why}" if verdict.why else "it took a frame"
        return Tried("TD202", verdict.takes, cause, interface.name)
    if takes is None:
        return Tried("TD202", None, _NOT_TOLD, interface.name)
    cause = "it takes redirected frames" if takes else "its driver takes no redirected frames now"
    fix = "" if takes or interface.kind != "veth" else _PEER
    return Tried("TD202", takes, cause, interface.name, fix=fix)
