"""What a broker tells those who look (``GET /v1/events``): the state once, then steps. No input or output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tempos.cli.words import not_delivered

#: Changes that are kept, as a broker keeps them.
CHANGES = 100


@dataclass(slots=True)
class Group:
    """A group of a topic; ``rate``: deliveries a second, ``told``: what the broker tells of it."""

    rate: float
    told: Mapping[str, Any]


@dataclass(slots=True)
class Topic:
    """``rate``, ``out``: events in and deliveries out a second. ``late``: p99 in ns, None: not measured."""

    told: Mapping[str, Any]
    rate: float = 0.0
    groups: tuple[Group, ...] = ()

    @property
    def name(self) -> str:
        name: str = self.told["name"]
        return name

    @property
    def out(self) -> float:
        return sum(each.rate for each in self.groups)

    @property
    def members(self) -> int:
        return sum(each.told["members"] for each in self.groups)

    @property
    def waiting(self) -> int:
        """Events that members have and their consumers have not taken."""
        # A broker of before does not tell.
        return sum(each.told.get("waiting", 0) for each in self.groups)

    @property
    def lost(self) -> int:
        """Events that somebody should have got and did not."""
        return not_delivered(self.told)

    @property
    def late(self) -> int | None:
        latency = self.told["latency"] or {}
        fast, slow = ("since_sent", "program"), ("slow_since_sent", "slow")
        names = (*slow, *fast) if self.told["path"] == "slow" else (*fast, *slow)
        times = next((latency[name] for name in names if latency.get(name)), None)
        return times["p99_ns"] if times else None


@dataclass(slots=True)
class State:
    """``at``: Unix seconds of the last step, 0 before the first. ``trouble``: why it is not live, or ""."""

    at: float = 0.0
    head: dict[str, Any] = field(default_factory=dict)
    topics: dict[int, Topic] = field(default_factory=dict)
    changes: list[Mapping[str, Any]] = field(default_factory=list)
    trouble: str = ""
    #: Seconds between the last two steps.
    between: float = 1.0

    @property
    def wrong(self) -> Sequence[Mapping[str, Any]]:
        """Findings that matter, the worst first, as the broker sorts them."""
        return [each for each in self.head.get("wrong", ()) if each["severity"] in ("warning", "fault")]

    def take(self, step: Mapping[str, Any], whole: bool) -> None:
        """Take in what the broker told: the ``whole`` state, or what has changed since."""
        seconds = step["at"] - self.at if self.at else 0.0
        former = self.topics
        same = not whole or self._pid() == step["broker"]["pid"]
        if whole:
            self.topics, self.changes = {}, []
        elif self.at:
            self.between = min(5.0, seconds)
        told = {each["id"]: each for each in step["topics"]}
        for number, each in told.items():
            self.topics[number] = rated(each, former.get(number) if same else None, seconds)
        for number, topic in self.topics.items():
            if number not in told:
                # Nothing went through it.
                topic.rate, topic.groups = 0.0, tuple(Group(0.0, group.told) for group in topic.groups)
        for number in step["gone"]:
            self.topics.pop(number, None)
        self._note(step["changes"])
        rest = ("at", "topics", "gone", "changes")
        self.head.update({key: value for key, value in step.items() if key not in rest})
        self.at, self.trouble = step["at"], ""

    def _pid(self) -> int | None:
        broker = self.head.get("broker")
        return broker and broker["pid"]

    def _note(self, changes: Sequence[Mapping[str, Any]]) -> None:
        numbers = {each["number"] for each in changes}
        # One that has grown comes again under a higher number.
        grown = {(each["at"], each["kind"]) for each in changes}
        kept = [
            each
            for each in self.changes
            if each["number"] not in numbers and (each["at"], each["kind"]) not in grown
        ]
        self.changes = [*kept, *changes][-CHANGES:]


def rated(told: Mapping[str, Any], before: Topic | None, seconds: float) -> Topic:
    """A topic, with rates where it is known what it was so many ``seconds`` ago."""

    def per(now: int, then: int | None) -> float:
        return 0.0 if then is None or seconds <= 0 else max(0, now - then) / seconds

    known = {} if before is None else {each.told["name"]: each.told["tickets"] for each in before.groups}
    groups = tuple(Group(per(each["tickets"], known.get(each["name"])), each) for each in told["groups"])
    return Topic(told, per(told["received"], None if before is None else before.told["received"]), groups)
