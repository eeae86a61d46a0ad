"""Events that no queue let pass are counted exactly while other packets come and go between the looks."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from networks.ground import Ground
from networks.network import Dropped
from networks.passage import Passage

NEAR, FAR = cast("Any", "near"), cast("Any", "far")


class Link:
    """Stands in for tc: at every ``every``-th look another packet is on its way, and there at the next."""

    def __init__(self, every: int) -> None:
        self.every, self.looks, self.offered, self.passed, self.others, self.drops = every, 0, 0, 0, 7, 0

    def needs_qdisc(self, space: object, kind: str) -> None:
        pass

    def tc(self, space: object, *lines: str) -> None:
        pass

    def run(self, space: object, *command: str) -> str:
        self.looks += 1
        if self.looks % self.every == 0:
            self.passed += 1
        if self.looks % self.every == 1:
            self.others = self.passed - self.events + 7
        if "qdisc" in command:
            inner, clsact = {"kind": "etf", "drops": self.drops}, {"kind": "clsact", "drops": 0}
            return json.dumps(
                [{"kind": "taprio", "root": True, "packets": self.passed, "drops": 0}, inner, clsact]
            )
        count = self.offered if space == NEAR else self.others
        other = {"pref": 1 if space == FAR else 2, "options": {"actions": [{"stats": {"packets": 99}}]}}
        found = {"pref": 2 if space == FAR else 1, "options": {"actions": [{"stats": {"packets": count}}]}}
        return json.dumps([{"pref": found["pref"]}, other, found])

    events = 0


@pytest.mark.parametrize("every", [4, 5, 7, 9])
def test_what_passes_between_two_looks_is_no_event(every: int) -> None:
    link = Link(every)
    passage = Passage(cast("Ground", link), (NEAR, "eth1"), (FAR, "eth0"))
    passage.begin()
    assert passage.dropped() == Dropped({}, 0)
    link.offered, link.passed, link.events, link.drops = 201, link.passed + 186, 186, 9
    assert passage.dropped() == Dropped({"etf": 9}, 15)
