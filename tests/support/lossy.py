"""A link that loses events, always the same ones: every 24th of each publisher, beginning with its sixth."""

from __future__ import annotations

from pathlib import Path

from support.bpf import on_egress
from tempos_bench.nodes.node import Node

#: As in the program: of so many events the one at this place is lost.
EVERY, AT = 24, 5


def loses_events(node: Node, interface: str) -> None:
    """Have ``interface`` of a node lose events that it sends to the data port."""
    on_egress(node, interface, Path(__file__).with_suffix(".bpf.c"), "lossy")
