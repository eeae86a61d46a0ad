"""What is stored of a topic comes back as it was, and whatever else stands there is refused, not believed."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import Framing, Reason
from tempos_broker.account.ledger import Holder, Ledger
from tempos_broker.lives.memory import UNREADABLE, Kept, Remembered, drains_in, instance_in, read, write
from tempos_broker.lives.steps import go_on

A, B = (Holder("10.0.2.2", port, (1 << 64) - 1) for port in (5001, 5002))
BARE = Holder("10.0.2.9", 9998, None)

Values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.lists(st.integers() | st.text(max_size=3), max_size=3)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
)  # fmt: skip


def remembered() -> Remembered:
    """A topic with a past: members that left, one that is settled, two epochs that are open."""
    ledger = Ledger()
    ledger.opened(1, 1, [("g", [A, B]), ("~", [BARE])], 0)
    ledger.report(1, "g", A, 1, 2)
    ledger.opened(1, 2, [("g", [B])], 0)
    ledger.closed(1, 1, [3, 3])
    ledger.settle(1)
    ledger.opened(1, 3, [("g", [B]), ("h", [A])], 2)
    members = (Kept("g", "10.0.2.2", 5002, 7, 3.5, "10.0.1.9"), Kept("h", "10.0.2.2", 5001, 7, 3.5))
    return Remembered(
        "events", Framing.EVENT, 1e9, members, ledger.export(1),
        {2: [4], 3: [0, 0]}, {Reason.FORWARDED: 7}, {}, {},
    )  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    yield path
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, each in entries:
        yield from places(each, (*path, key))


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = document.copy()
    copy[path[0]] = replaced(document[path[0]], path[1:], value)
    return copy


def quiet() -> Remembered:
    """A topic of which no event was counted: the same members, a swap under way, and nobody's account."""
    ledger = Ledger()
    ledger.opened(1, 2, [("g", [B])], 0)
    ledger.opened(1, 3, [("g", [B]), ("h", [A])], 2)
    return replace(remembered(), ledger=ledger.export(1), live={2: [0], 3: [0, 0]}, slow={})


DOCUMENT, QUIET = (json.loads(json.dumps(write(each))) for each in (remembered(), quiet()))
PLACES = [(document, path) for document in (DOCUMENT, QUIET) for path in places(document)]


@pytest.mark.parametrize("document", [DOCUMENT, QUIET], ids=["with a past", "quiet"])
def test_what_was_written_is_read(document: dict[str, Any]) -> None:
    memory = read(document)
    assert json.loads(json.dumps(write(memory))) == document
    ledger = Ledger()
    ledger.restore(1, memory.ledger, 0)
    assert json.loads(json.dumps(ledger.export(1))) == document["ledger"]
    ledger.closed(1, 2, [3])
    assert ledger.drawn(1) == document["ledger"].get("drawn", 0) + 3


def test_of_a_topic_without_events_only_who_is_in_it_is_written() -> None:
    """Of ten thousand such topics every byte counts, and every start reads all."""
    assert QUIET["ledger"] == {
        "epoch": 3,
        "open": [[2, [["g", [list(B)]]]], [3, [["g", [list(B)]], ["h", [list(A)]]]]],
    }


@pytest.mark.parametrize("wrong", [-1.0, 1e300, float("nan"), "now"])
def test_when_something_was_lost_is_a_time(wrong: object) -> None:
    with pytest.raises(UNREADABLE):
        read(replaced(DOCUMENT, ("ledger", "groups", 0, "lost_at"), wrong))


def test_members_of_before_they_had_sources_are_members() -> None:
    old = replaced(DOCUMENT, ("members",), [["g", "10.0.2.2", 5002, 7, 3.5]])
    assert read(old).members == (Kept("g", "10.0.2.2", 5002, 7, 3.5, None),)


def test_what_settled_members_told_last_is_read_too() -> None:
    """Of a topic without epochs, whose members count on should they come back."""
    ledger = Ledger((1,))
    ledger.opened(1, 1, [("g", [A, B])], 0)
    ledger.report(1, "g", A, 0, 2)
    ledger.report_dropped(1, "g", A, 1)
    ledger.opened(1, 2, [("g", [B])], 0)
    ledger.closed(1, 1, [4])
    ledger.settle(1)
    exported = ledger.export(1)
    assert exported["groups"][0]["settled"] == [[list(A), 2, 1]]
    document = json.loads(json.dumps(write(replace(remembered(), ledger=exported))))
    again = Ledger((1,))
    again.restore(1, read(document).ledger, 0)
    assert again.export(1) == exported
    for row in ([list(A)], [list(A), -1], [list(A), 2, 0, 0], [list(A), 2, True], 7):
        with pytest.raises(UNREADABLE):
            read(replaced(document, ("ledger", "groups", 0, "settled", 0), row))


@given(st.sampled_from(PLACES), Values, st.integers())
def test_whatever_stands_in_any_place_is_refused_or_can_be_gone_on_with(
    place: tuple[Any, tuple[Any, ...]], value: Any, seed: int
) -> None:
    """By one of the errors that a start expects, and never later, when nobody does any more."""
    document = replaced(*place, value)
    ledger = Ledger()
    try:
        memory = read(document)
        ledger.restore(1, memory.ledger, 0)
    except UNREADABLE:
        return
    # As it stands there, to the type: nothing was bent to fit. Groups that nobody is in stand in one sum.
    exported, stored = json.loads(json.dumps(ledger.export(1))), document["ledger"]
    if "groups" in stored:
        idle = {group["name"] for group in stored["groups"]} - {each["name"] for each in exported["groups"]}
        assert summed(exported) == summed(stored)
        here = [group for group in stored["groups"] if group["accounts"]]
        assert repr([group for group in exported["groups"] if group["accounts"]]) == repr(here)
    if "groups" not in stored or not idle:
        assert repr(exported) == repr(stored)
    json.dumps(write(memory))
    ledger.settle(5)
    for epoch, groups in ledger.open_epochs(1).items():
        for _, holders in ledger.route(1, epoch):
            for holder in holders:
                socket.inet_aton(holder.ip)
                assert 0 < holder.port < 65536
        ledger.closed(1, epoch, [random.Random(seed).randrange(9)] * groups)
    facts = {"received": 0, "fast": 0, "slow": 0, "refused": {}}
    ledger.topic(1, live={}, **facts)  # type: ignore[arg-type]
    json.dumps(ledger.export(1))


STEPS: list[Any] = [
    {"opened": [4, [["g", [list(B)], [list(A)]], ["h", [list(A)], []], ["i", [], [list(BARE)]]]],
     "gone": [["10.0.2.2", 5002]], "come": [["g", "10.0.2.2", 5001, 7, 3.5, None]]},
    {"closed": [[3, [2, 2], [0, 1]]]},
    {"gone": [["10.0.2.2", 5001]]},
]  # fmt: skip


def taken(steps: Any) -> tuple[Remembered, Ledger]:
    """The document, and these steps since."""
    ledger = Ledger()
    memory = read(replaced(DOCUMENT, ("ledger", "open"), DOCUMENT["ledger"]["open"][-1:]))
    ledger.restore(1, memory.ledger, 0)
    return go_on(memory, ledger, 1, list(enumerate(steps, 1)), 1.0), ledger


def test_steps_since_the_document_are_taken_in_their_order() -> None:
    memory, ledger = taken(STEPS[:1])
    assert ledger.route(1, 4) == [("g", (A,)), ("i", (BARE,))]
    assert memory.members == (Kept("g", "10.0.2.2", 5001, 7, 3.5),)
    memory, ledger = taken(STEPS)
    assert (ledger.open_epochs(1), memory.members, memory.steps) == ({4: 2}, (), 3)
    again = go_on(memory, ledger, 1, [(2, None), (3, None), (4, {"closed": [[4, [1, 1], []]]})], 2.0)
    assert (ledger.open_epochs(1), again.steps) == ({}, 4)
    with pytest.raises(UNREADABLE):
        go_on(again, ledger, 1, [(6, {})], 2.0)


@given(st.sampled_from([*places(STEPS)][1:]), Values)
def test_steps_that_make_no_sense_are_refused_and_never_later(path: tuple[Any, ...], value: Any) -> None:
    try:
        memory, ledger = taken(replaced(STEPS, path, value))
    except UNREADABLE:
        return
    json.dumps(write(replace(memory, ledger=ledger.export(1))))
    for epoch, groups in ledger.open_epochs(1).items():
        ledger.closed(1, epoch, [3] * groups)
    read(json.loads(json.dumps(write(replace(memory, ledger=ledger.export(1))))))


def summed(stored: dict[str, Any]) -> list[int]:
    """What all groups come to of those that are forgotten."""
    return [sum(column) for column in zip(*(group["sums"] for group in stored["groups"]), strict=True)]


@pytest.mark.parametrize(
    "stored", [None, True, "7", 7.0, [7], {}, 0, -1, 1 << 32, float("nan")], ids=repr
)  # fmt: skip
def test_an_instance_is_a_number_of_32_bits(stored: object) -> None:
    assert instance_in({"instance": stored}) is None
    assert instance_in({"instance": 7}) == 7


def test_drains_that_make_sense_are_gone_on_with_whatever_stands_beside_them() -> None:
    good = ["10.0.2.2", 5001, 9, [1, 2], 4.0]
    rows = [good, 7, [], ["x", 5001, 9, [1], 4.0], ["10.0.2.2", 0, 9, [1], 4.0], [*good[:3], [[1]], 4.0],
            [*good[:4], float("inf")], [*good[:4], 1 << 5000], [*good[:4], None]]  # fmt: skip
    found = list(drains_in({"wall": 100.0, "leaving": rows}, 101.0))
    assert found == [(Holder("10.0.2.2", 5001, 9), [1, 2], 3.0)]
    for wall in (None, "100", float("nan"), True):
        assert not list(drains_in({"wall": wall, "leaving": rows}, 101.0))
    for leaving in (None, 7, {"a": 1}):
        assert not list(drains_in({"wall": 100.0, "leaving": leaving}, 101.0))
