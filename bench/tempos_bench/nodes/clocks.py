"""Whether the times of two nodes can be compared.

Namespaces of one machine share its clock. Clocks of hosts are measured, publisher against subscriber, before
and after whatever compares them: times are compared if the clocks were close enough, and as they are;
nothing is corrected. What was found becomes a note of the run.
"""

from __future__ import annotations

import time
from typing import Protocol

from tempos import Unavailable
from tempos_bench.nodes import offset, stamps
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.offset import Offset
from tempos_bench.runs.run import current

#: Exchanges of one measurement: some tens of milliseconds.
_EXCHANGES = 100
#: Seconds between two measurements from which a drift can be told.
_LONG = 1.0


class Clocks(Protocol):
    """The clocks (CLOCK_REALTIME) of a publisher and a subscriber."""

    def agree(self) -> bool:
        """Whether they are close enough now for a time of the one to be compared with one of the other."""


class OneClock:
    """Both are on one machine."""

    def agree(self) -> bool:
        return True


class FarClocks:
    """Those of two hosts, which agree if they are at most ``limit`` seconds apart.

    Measured straight from the publisher to the subscriber where the two reach each other, else from the
    publisher to the broker and from there on. :meth:`tell` makes the note when all is over: one for all of
    the same three that a run measures one after the other.
    """

    def __init__(self, publisher: Node, broker: Node, subscriber: Node, limit: float) -> None:
        self._nodes = publisher, broker, subscriber
        self._limit = limit
        self._reflecting: set[str] = set()
        self._straight = True
        names = ", ".join(node.name for node in self._nodes)
        self._note = f"clocks of {names}"
        self._seen: list[tuple[float, Offset]] = current().once(self._note, list)

    def agree(self) -> bool:
        found = self._measure()
        self._seen.append((time.monotonic(), found))
        return found.bound <= self._limit

    def tell(self) -> None:
        """What was found, as a note; nothing where nobody compared times."""
        if not self._seen:
            return
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        text = f"the subscriber's clock against the publisher's: {first}"
        if ended - began >= _LONG:
            drift = (last.ahead - first.ahead) / (ended - began)
            text += f", at the end {last}; drift {drift * 1e6:+.2f} us/s"
        beyond = sum(found.bound > self._limit for _, found in self._seen)
        if not beyond:
            current().note(f"{text}; latencies are not corrected by it", self._note)
            return
        current().note(
            f"{text}; {beyond} of {len(self._seen)} times they may have been more than "
            f"{self._limit * 1e6:,.0f} us apart (clock_offset of the hosts file): one-way latencies measured "
            "meanwhile are left out; synchronise the clocks by PTP or chrony",
            self._note,
        )

    def _measure(self) -> Offset:
        publisher, broker, subscriber = self._nodes
        if self._straight:
            found = self._between(publisher, subscriber)
            if found is not None:
                return found
            self._straight = False
        there, back = self._between(publisher, broker), self._between(broker, subscriber)
        if there is None or back is None:
            raise Unavailable(
                f"the clocks of {publisher.name} and {subscriber.name} cannot be compared: no answer to UDP "
                f"port {stamps.PORT}, neither straight nor by way of {broker.name}"
            )
        return there.then(back)

    def _between(self, here: Node, there: Node) -> Offset | None:
        """How far ``there`` is ahead of ``here``; None if they do not reach each other."""
        if there.name not in self._reflecting:
            there.role("nodes.stamps", "--bind", there.address, ready=True)
            self._reflecting.add(there.name)
        exchanges = here.inquire("exchanges", to=there.address, count=_EXCHANGES)
        return offset.estimate(exchanges) if exchanges else None
