"""Links that lose events: every 24th of each publisher, from its sixth on; or some, at random."""

from __future__ import annotations

from pathlib import Path

from support.bpf import on_egress, on_ingress
from tempos_bench.nodes.node import Node

#: As in the program: of so many events the one at this place is lost.
EVERY, AT = 24, 5


def loses_events(node: Node, interface: str) -> None:
    """Have ``interface`` of a node lose events that it sends to the data port."""
    on_egress(node, interface, Path(__file__).with_suffix(".bpf.c"), "lossy")


def loses_deliveries(node: Node, interface: str) -> None:
    """Have ``interface`` of a node lose one in twenty of what a broker's data port sends to it."""
    on_ingress(node, interface, Path(__file__).with_name("lossy_member.bpf.c"), "lossy")


def loses_what_is_published(node: Node, interface: str) -> None:
    """Have ``interface`` of a node lose one in ten of what it sends to a broker, events and requests."""
    on_egress(node, interface, Path(__file__).with_name("lossy_publisher.bpf.c"), "lossy")
