"""The last changes: numbered, bounded, in words; what happens in one moment to many is one change."""

from __future__ import annotations

import logging

import pytest

from tempos import Group, Member
from tempos.control import Out
from tempos_broker.account.changes import KEPT, MERGED, Change, Changes, Kind


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def changes(clock: Clock) -> Changes:
    return Changes(logging.getLogger("tempos.broker"), clock)


def group(name: str, *ports: int) -> Group:
    return Group(name, tuple(Member("10.0.2.2", port) for port in ports))


def texts(changes: Changes, since: int = 0) -> list[str]:
    return [each.text for each in changes.since(since)]


def wanted_to(ip: str, port: int) -> str:
    return ""


def test_who_came_and_who_went_is_told_in_words(changes: Changes, clock: Clock) -> None:
    changes.route("press", (), (group("work", 1), group("~10.0.2.2:2", 2)), wanted_to)
    assert texts(changes) == [
        "10.0.2.2:1 joined group 'work' of press",
        "10.0.2.2:2 joined press",
    ]
    seen = changes.last
    clock.now += 60
    changes.route("press", (group("work", 1, 3),), (group("work", 3),), lambda ip, port: Out.OPERATOR)
    changes.route("press", (group("work", 3),), (), wanted_to)
    assert texts(changes, seen) == [
        "10.0.2.2:1 left group 'work' of press: an operator took it out",
        "10.0.2.2:3 left group 'work' of press",
    ]


def test_one_moment_is_one_change_and_no_reader_misses_that_it_grew(changes: Changes, clock: Clock) -> None:
    for number in range(1000):
        changes.route(f"t{number}", (), (group("work", 1),), wanted_to)
        if number == 500:
            seen = changes.last
    (only,) = changes.since(seen)
    assert (only.topics.count, only.number) == (1000, 1000)
    assert only.text.startswith("10.0.2.2:1 joined group 'work' of t0, t1,")
    assert only.text.endswith("t7 and 992 more")
    changes.route("press", (), (group("many", *range(1, 65)),), wanted_to)
    assert texts(changes, only.number)[0].endswith("and 56 more joined group 'many' of press")
    # Later it is another change.
    before, clock.now = changes.last, clock.now + MERGED + 1
    changes.route("late", (), (group("work", 1),), wanted_to)
    assert texts(changes, before) == ["10.0.2.2:1 joined group 'work' of late"]


def test_an_ended_lease_is_told_once(changes: Changes, caplog: pytest.LogCaptureFixture) -> None:
    changes.lease_ended(["10.0.2.2:1"], ["a", "b"])
    for topic, why in (("a", Out.LEASE), ("b", "")):
        changes.route(topic, (group("work", 1),), (), lambda ip, port, why=why: why)  # type: ignore[misc]
    (only,) = changes.since()
    assert (only.kind, only.topics.first) == (Kind.LEASE, ["a", "b"])
    assert caplog.messages == ["topics a, b: the lease of 10.0.2.2:1 ended"]


def test_whose_lease_ended_is_told_and_nobody_else(
    changes: Changes, caplog: pytest.LogCaptureFixture
) -> None:
    """A crowd by one line; and of one that comes back and goes again it is not said that others went, too."""
    crowd = [f"10.0.2.2:{port}" for port in range(1, 13)]
    changes.lease_ended(crowd, ["a"])
    for _ in range(2):
        changes.lease_ended(crowd[:1], ["a"])
    first, *again = caplog.messages
    assert first.startswith("topic a: the leases of 10.0.2.2:1, 10.0.2.2:2,")
    assert first.endswith("10.0.2.2:8 and 4 more ended")
    assert again == ["topic a: the lease of 10.0.2.2:1 ended"] * 2
    (only,) = changes.since()
    assert (only.members.count, only.members.first) == (12, crowd[:8])


def test_so_many_are_kept(changes: Changes, clock: Clock) -> None:
    for number in range(KEPT + 50):
        changes.tell(Kind.PATH, f"{{}} %s {number}")
    kept = list(changes.since())
    assert [each.number for each in kept] == list(range(51, KEPT + 51))
    assert kept[-1].text == f"{{}} %s {KEPT + 49}"
    assert [each.number for each in changes.since(KEPT + 48)] == [KEPT + 49, KEPT + 50]


def test_hostile_names_are_words_like_others(changes: Changes) -> None:
    changes.route("{0} %s {members}", (), (group("{places}", 1),), wanted_to)
    assert texts(changes) == ["10.0.2.2:1 joined group '{places}' of {0} %s {members}"]


def test_what_a_logger_is_told_is_kept_whatever_the_logs_level(
    changes: Changes, caplog: pytest.LogCaptureFixture
) -> None:
    quiet = logging.getLogger("tempos.broker.quiet")
    quiet.setLevel(logging.ERROR)
    changes.of(Kind.WORKER, quiet).info("SQ worker %d serves", 7)
    changes.of(Kind.WORKER).warning("100 % gone")
    first, second = changes.since()
    assert isinstance(first, Change)
    assert (first.text, first.document()["severity"]) == ("SQ worker 7 serves", "info")
    assert (second.text, second.document()["severity"]) == ("100 % gone", "warning")
    assert caplog.messages == ["100 % gone"]
