"""VLAN tags that travel beside a packet, not in it: as a VLAN device at the sender, or a card, leaves them.

A raw socket can only send a tag inside the frame. So a tc program of the tests' own (tagging.bpf.c) sits on
the sender's interface and gives a tag to what carries a mark.
"""

from __future__ import annotations

from pathlib import Path

from support.bpf import on_egress
from tempos_bench.nodes.node import Node

_WANTED, _SERVICE = 0x10000, 0x20000


def mark_of(tag: int, *, service: bool = False) -> int:
    """The mark (SO_MARK) of what is to get ``tag``: VLAN id and priority. ``service``: by IEEE 802.1ad."""
    return _WANTED | (_SERVICE if service else 0) | tag


def tags_by_mark(node: Node, interface: str) -> None:
    """Have ``interface`` of a node give tags to what it sends, for as long as it exists."""
    on_egress(node, interface, Path(__file__).with_suffix(".bpf.c"), "tag")
