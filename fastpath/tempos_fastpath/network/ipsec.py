"""IPsec policies, which the kernel applies in its stack, where the fast path's frames never come by.

So a member that one is for, and a data port that one guards, are the slow path's. Numbers are those of
<linux/xfrm.h>.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass

_SELECTOR = struct.Struct("!16s16sHHHH")
#: struct xfrm_userpolicy_info: what stands where, and how long it is.
_FAMILY_AT, _PREFIXES_AT, _PROTOCOL_AT, _IFINDEX_AT = 40, 42, 44, 48
_PRIORITY_AT, _DIRECTION_AT, _ACTION_AT = 152, 160, 161
POLICY_SIZE = 168
_TEMPLATES, _MARK, _IF_ID = 5, 21, 31
_IN, _OUT = 0, 1
_BLOCK = 1


@dataclass(frozen=True, slots=True)
class Flow:
    """UDP from one address and port to another, through an interface; None: any there may be."""

    source: str | None
    source_port: int | None
    to: str | None
    to_port: int | None
    ifindex: int | None = None


@dataclass(frozen=True, slots=True, order=True)
class Policy:
    """One of IPv4; the lowest ``priority`` holds. ``strict``: it lets nothing pass in clear, or at all.

    Of ports: the number and the mask of those bits that count. ``ifindex`` 0, ``protocol`` 0: any.
    ``marked``: only for packets with a certain mark.
    """

    priority: int
    outgoing: bool
    source: str
    to: str
    source_port: tuple[int, int]
    to_port: tuple[int, int]
    protocol: int
    ifindex: int
    strict: bool
    marked: bool
    what: str

    def fits(self, flow: Flow) -> bool | None:
        """Whether it is for the flow; None: for some of what the flow may be."""
        answers = [
            self.protocol in (0, socket.IPPROTO_UDP),
            _inside(self.source, flow.source),
            _inside(self.to, flow.to),
            _equal(*self.source_port, flow.source_port),
            _equal(*self.to_port, flow.to_port),
            _equal(self.ifindex, -1 if self.ifindex else 0, flow.ifindex),
        ]
        # One for packets with a mark: they may have it by a rule that is not known here.
        return False if False in answers else None if self.marked or None in answers else True


def _inside(network: str, address: str | None) -> bool | None:
    of = ipaddress.IPv4Network(network, strict=False)
    if of.prefixlen == 0:
        return True
    return None if address is None else ipaddress.IPv4Address(address) in of


def _equal(number: int, mask: int, value: int | None) -> bool | None:
    if not mask:
        return True
    return None if value is None else not (value ^ number) & mask


def policy_of(payload: bytes, attributes: dict[int, bytes]) -> Policy | None:
    """What a message of the kernel's says; None: of IPv6, of what is routed, or of an IPsec interface."""
    (family,) = struct.unpack_from("=H", payload, _FAMILY_AT)
    direction = payload[_DIRECTION_AT]
    if family != socket.AF_INET or direction not in (_IN, _OUT) or any(attributes.get(_IF_ID, b"")):
        return None
    to, source, to_port, to_mask, source_port, source_mask = _SELECTOR.unpack_from(payload)
    to_length, source_length = payload[_PREFIXES_AT : _PREFIXES_AT + 2]
    blocks, templates = payload[_ACTION_AT] == _BLOCK, attributes.get(_TEMPLATES, b"")
    return Policy(
        priority=struct.unpack_from("=I", payload, _PRIORITY_AT)[0],
        outgoing=direction == _OUT,
        source=f"{socket.inet_ntoa(source[:4])}/{source_length}",
        to=f"{socket.inet_ntoa(to[:4])}/{to_length}",
        source_port=(source_port, source_mask),
        to_port=(to_port, to_mask),
        protocol=payload[_PROTOCOL_AT],
        ifindex=struct.unpack_from("=i", payload, _IFINDEX_AT)[0],
        strict=blocks or bool(templates),
        marked=any(attributes.get(_MARK, b"")[4:8]),
        what="blocks it" if blocks else "has it encrypted or sealed" if templates else "lets it pass",
    )


def hindrance(policies: Collection[Policy], flow: Flow, *, outgoing: bool) -> str:
    """Why the flow is not for the fast path; empty if it may be."""
    if not policies:
        return ""
    for policy in sorted(each for each in policies if each.outgoing == outgoing):
        fits = policy.fits(flow)
        if fits and not policy.strict:
            return ""
        if fits is not False and policy.strict:
            return f"an IPsec policy ({policy.source} to {policy.to}) {policy.what}"
    return ""


def guarded(policies: Collection[Policy], listen: Iterable[str], port: int) -> str:
    """Why what comes in for the data port of these addresses is not for the fast path; empty if it may be."""
    if not policies:
        return ""
    found = (hindrance(policies, Flow(None, None, address, port), outgoing=False) for address in listen)
    return next((each for each in found if each), "")
