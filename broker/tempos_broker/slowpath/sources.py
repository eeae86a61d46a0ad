"""The source networks of topics: whose events a topic takes.

Where a topic has any, an event from elsewhere is refused as ``FOREIGN_SOURCE``, whatever else may be wrong
with it. The compiled helper does the same with the same words; a property test holds the two equal.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from tempos import Topic


def words(network: str) -> tuple[int, int]:
    """Network address and mask of a CIDR text, as numbers."""
    parsed = ipaddress.IPv4Network(network)
    return int(parsed.network_address), int(parsed.netmask)


class Sources:
    """The networks of every topic."""

    __slots__ = ("_of",)

    def __init__(self, topics: Iterable[Topic]) -> None:
        self._of: dict[int, tuple[tuple[int, int], ...]] = {}
        for topic in topics:
            self.set(topic)

    def set(self, topic: Topic) -> None:
        """Go by the networks of this topic from now on."""
        if topic.sources:
            self._of[topic.id] = tuple(words(network) for network in topic.sources)
        else:
            self._of.pop(topic.id, None)

    def refuse(self, topic: int, ip: str) -> bool:
        """Whether an event of this topic from ``ip`` is not to be taken."""
        networks = self._of.get(topic)
        if not networks:
            return False
        address = int(ipaddress.IPv4Address(ip))
        return not any(address & mask == network for network, mask in networks)
