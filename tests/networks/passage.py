"""Counts what the queues of an interface let pass, datagram by datagram.

A queue's count of what it drops is one of packets, and a packet that the broker has the kernel segment
(UDP_SEGMENT) holds several datagrams. taprio of Linux 6.1 takes each apart before etf gets it; from 6.3 on
only those that fit no window, so one that etf drops is several events. What a queue lets pass it counts in
datagrams, and so do classifiers: here one before the queues and one at the far end of the link.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from networks.ground import Ground
from networks.network import Dropped
from tempos import DATA_PORT
from tempos_bench.nodes.namespace import Namespace

_EVENTS, _OTHERS = 1, 2
_LOOKS = 50


class _Counts(NamedTuple):
    """Events before the queues, and those that the queues have let pass (less a constant)."""

    offered: int
    passed: int


class Passage:
    """The way out by ``near`` to ``far``, counted from :meth:`begin` on.

    What is no event must have no other way than this. Events may: those that are redirected pass neither the
    first classifier nor the queues.
    """

    def __init__(self, ground: Ground, near: tuple[Namespace, str], far: tuple[Namespace, str]) -> None:
        self._ground, self._near, self._far = ground, near, far
        self._before = _Counts(0, 0)
        for (space, name), way in ((near, "egress"), (far, "ingress")):
            ground.needs_qdisc(space, "clsact")
            add = f"filter add dev {name} {way} pref"
            ground.tc(
                space,
                f"qdisc add dev {name} clsact",
                f"{add} {_EVENTS} protocol ip flower ip_proto udp src_port {DATA_PORT} action pass",
                f"{add} {_OTHERS} protocol all matchall action pass",
            )

    def begin(self) -> None:
        """The queues are there now; nothing is published yet."""
        self._before = self._counts()

    def dropped(self) -> Dropped:
        """What did not get through, once all that was sent has had its time."""
        now, before = self._counts(), self._before
        events = now.passed - before.passed
        queues = self._queues()
        # What a queue inside another one drops, the outer one may count as well.
        inner = {each["kind"]: each["drops"] for each in queues if not each.get("root")}
        outer = {each["kind"]: each["drops"] for each in queues if each.get("root")}
        told = inner if any(inner.values()) else outer
        packets = {kind: count for kind, count in told.items() if count}
        return Dropped(packets, now.offered - before.offered - events)

    def _counts(self) -> _Counts:
        """The counts while no event is on its way; what else passes meanwhile must not matter.

        All that has come to the far end has passed the queues. So what is counted there before and after says
        how many events at least and at most the queues have let pass, and several looks tell exactly.
        """
        least, most = -math.inf, math.inf
        for _ in range(_LOOKS):
            before = self._classified(*self._far, "ingress", _OTHERS)
            (root,) = (each for each in self._queues() if each.get("root"))
            after = self._classified(*self._far, "ingress", _OTHERS)
            least, most = max(least, root["packets"] - after), min(most, root["packets"] - before)
            if least == most:
                return _Counts(self._classified(*self._near, "egress", _EVENTS), int(least))
        raise AssertionError(f"the queues let {least} to {most} events pass, and it is not clear how many")

    def _queues(self) -> list[dict[str, Any]]:
        space, name = self._near
        told = json.loads(self._ground.run(space, "tc", "-s", "-j", "qdisc", "show", "dev", name))
        return [each for each in told if each["kind"] != "clsact"]

    def _classified(self, space: Namespace, name: str, way: str, preference: int) -> int:
        told = json.loads(self._ground.run(space, "tc", "-s", "-j", "filter", "show", "dev", name, way))
        return sum(
            int(action["stats"]["packets"])
            for each in told
            if each["pref"] == preference
            for action in each.get("options", {}).get("actions", ())
        )
