"""Who is to be a member of a topic that is made: leases by their filters, and by names that no topic has now.

Values only. Plain names are noted while there is no such topic, so that a member of one topic costs nothing
here; who cannot be in a topic now is noted under it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tempos.names import FilterTree
from tempos_broker.account.accounts import Holder
from tempos_broker.members.known import Lease


class Wants:
    """``changed``: holders of whom it is another thing that they want."""

    def __init__(self) -> None:
        self.changed: set[Holder] = set()
        #: Hears of the same holders, at once.
        self.on_change: Callable[[Holder], None] | None = None
        self._tree = FilterTree()
        #: By filter, or by the name of a topic that there is not; leases in the order in which they came.
        self._leases: dict[str, dict[Lease, None]] = {}
        self._missing: dict[int, dict[Lease, None]] = {}

    def touch(self, holder: Holder) -> None:
        """It is another thing that a holder wants, or that is known of it."""
        self.changed.add(holder)
        if self.on_change is not None:
            self.on_change(holder)

    def add(self, wanted: str, lease: Lease) -> None:
        """A lease wants what matches a filter."""
        self._tree.add(wanted)
        self.await_topic(wanted, lease)
        self.touch(lease.holder)

    def await_topic(self, name: str, lease: Lease) -> None:
        """A lease wants a topic that there is not."""
        self._leases.setdefault(name, {})[lease] = None

    def discard(self, wanted: str, lease: Lease) -> None:
        """A lease wants this no more."""
        self.touch(lease.holder)
        leases = self._leases.get(wanted)
        if leases is None:
            return
        leases.pop(lease, None)
        if not leases:
            del self._leases[wanted]
            self._tree.discard(wanted)

    def of(self, name: str) -> Iterator[Lease]:
        """Who wants a topic of this name that is new, each once; those by name are noted no more."""
        if not self._leases:
            return iter(())
        found = dict(self._leases.pop(name, {}))
        for wanted in self._tree.matching(name):
            found |= self._leases[wanted]
        return iter(found)

    def miss(self, topic: int, lease: Lease) -> None:
        """A lease wants a topic that it cannot be in now."""
        self._missing.setdefault(topic, {})[lease] = None

    def miss_no_more(self, topic: int, lease: Lease) -> None:
        """It is in it, or wants it no more."""
        leases = self._missing.get(topic)
        if leases is not None:
            leases.pop(lease, None)
            if not leases:
                del self._missing[topic]

    def without(self, topic: int) -> list[Lease]:
        """Who could not be in a topic that is no more; forgets them."""
        leases = list(self._missing.pop(topic, ()))
        for lease in leases:
            lease.missing.pop(topic, None)
        return leases
