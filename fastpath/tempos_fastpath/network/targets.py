"""What a fast path is asked to serve: addresses and interfaces, from the configuration and the facts."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from tempos import Unavailable, _abi
from tempos_fastpath.network.facts import VRF, Facts, Interface
from tempos_fastpath.network.gates import above

#: Devices that carry addresses, and that no frame comes in by.
SILENT = ("dummy", VRF)
ANY = "0.0.0.0"  # noqa: S104 - the configuration's word for every local address


def listen_addresses(listen: Sequence[str], facts: Facts) -> tuple[tuple[str, ...], str]:
    """The addresses to serve, and a note for the status if there are more than the program takes."""
    wanted = _wanted(listen, facts)
    served = wanted[: _abi.MAX_LISTEN]
    if not served and ANY in listen:
        raise Unavailable(f"no Ethernet interface{_in_here(facts)} has an IPv4 address to serve")
    if len(wanted) == len(served):
        return served, ""
    rest = ", ".join(wanted[_abi.MAX_LISTEN :])
    return served, f"; the slow path serves {rest}, for the program takes {_abi.MAX_LISTEN} addresses"


def served_now(listen: Sequence[str], facts: Facts) -> tuple[tuple[str, ...], str]:
    """As :func:`listen_addresses`, whatever there is at this moment, be it nothing."""
    try:
        return listen_addresses(listen, facts)
    except Unavailable:
        return (), ""


def wanted_now(names: Sequence[str], listen: Sequence[str], facts: Facts) -> list[Interface]:
    """As :func:`targets_of`, those that are there at this moment."""
    try:
        return [each for each in targets_of(names, listen, facts) if isinstance(each, Interface)]
    except Unavailable:
        return []


def _wanted(listen: Sequence[str], facts: Facts) -> tuple[str, ...]:
    if ANY in listen:
        return facts.local_addresses()
    here = {address for address, index in facts.addresses if not facts.elsewhere(facts.interfaces[index])}
    return tuple(address for address in dict.fromkeys(listen) if address in here)


def targets_of(names: Sequence[str], listen: Sequence[str], facts: Facts) -> list[Interface | str]:
    """The interfaces to attach to; one that does not exist as the name it has in the configuration."""
    if names:
        return [facts.by_name(name) or name for name in dict.fromkeys(names)]
    found = facts.carriers(listen)
    if not found:
        there = [facts.interfaces[index] for address, index in facts.addresses if address in listen]
        told = [f"{each.name}: {why}" for each in there if (why := facts.elsewhere(each))]
        but = f" ({'; '.join(dict.fromkeys(told))})" if told else ""
        raise Unavailable(f"no Ethernet interface{_in_here(facts)} carries {', '.join(listen)}{but}")
    return list(found)


def first_targets(
    names: Sequence[str], listen: Sequence[str], served: Sequence[str], facts: Facts
) -> list[Interface | str]:
    """As :func:`targets_of`, for a start: none where an address to listen on is not here yet.

    ``served``: those of ``listen`` that are.
    """
    here = {address for address, _ in facts.addresses}
    if not names and not served and (ANY in listen or any(each not in here for each in _beyond(listen))):
        return []
    return targets_of(names, served or listen, facts)


def _beyond(listen: Sequence[str]) -> list[str]:
    """Addresses that can be on an interface which events come in by."""
    return [each for each in listen if not ip_address(each).is_loopback]


def unfit(interface: Interface, facts: Facts) -> str:
    """Why no program belongs on an interface, whatever its mode; empty if one does."""
    if not interface.ethernet:
        return "it is not an Ethernet interface"
    if interface.kind in SILENT:
        others = "name in fastpath.interfaces those that what is for its addresses comes in by"
        return f"nothing comes in by a device of the kind {interface.kind}; {others}"
    if apart := next((each for each in above(interface, facts) if each.separates), None):
        return (
            f"{apart.name}, which it is a port of, keeps VLANs apart (vlan_filtering), and alone knows "
            "which one a frame is of; fastpath.interfaces may name what has the address"
        )
    return facts.elsewhere(interface)


def _in_here(facts: Facts) -> str:
    bound = facts.interfaces.get(facts.bound)
    return f" in {bound.name}" if bound is not None else ""
