"""What `tempos top` shows of what a broker tells: steps taken in, topics sorted and found, lines that fit."""

from __future__ import annotations

from typing import Any

import pytest

from tempos.cli.live.state import State
from tempos.cli.live.views import Line, Sort, View, Wish, listed, screen

WIDTH, HEIGHT = 80, 24


def topic(number: int, name: str, received: int = 0, **more: Any) -> dict[str, Any]:
    group = {
        "name": "g", "tickets": received, "delivered": received, "dropped": 0, "lost": more.pop("lost", 0),
        "members": 1, "waiting": more.pop("waiting", 0),
    }  # fmt: skip
    return {
        "id": number, "name": name, "class": "SQ", "path": "fast", "reason": "all of it",
        "received": received, "fast": received, "slow": 0, "refused": {}, "lost": {}, "latency": None,
        "lost_before": {"publishers": 1, "at_least": 0}, "groups": [group], **more,
    }  # fmt: skip


def told(at: float, *topics: dict[str, Any], pid: int = 1, **more: Any) -> dict[str, Any]:
    head = {"broker": {"name": "here", "pid": pid}, "paths": {"fast": {"mode": "native"}}, "wrong": []}
    return {**head, "at": at, "topics": topics, "gone": [], "changes": [], **more}


def text(lines: list[Line]) -> list[str]:
    return ["".join(piece for piece, _ in line) for line in lines]


def finding(**more: Any) -> dict[str, Any]:
    return {
        "code": "TD407", "name": "losses", "subject": "press", "cause": "7 lost",
        "means": "the network loses", "fix": "tempos ledger press", "severity": "warning", "now": True,
        "before": False,
        "since": 50.0, "changed": 60.0, **more,
    }  # fmt: skip


def change(number: int, kind: str = "joined", at: str = "2026-01-02T03:04:05+00:00") -> dict[str, Any]:
    return {"number": number, "kind": kind, "at": at, "severity": "info", "text": f"number {number}"}


def test_rates_are_by_what_came_between_two_steps_of_one_life() -> None:
    state = State()
    state.take(told(100.0, topic(1, "a", 1000), topic(2, "b", 5)), True)
    assert [each.rate for each in state.topics.values()] == [0.0, 0.0]
    state.take({"at": 102.0, "topics": [topic(1, "a", 3000)], "gone": [], "changes": []}, False)
    assert [(each.rate, each.out) for each in state.topics.values()] == [(1000.0, 1000.0), (0.0, 0.0)]
    state.take({"at": 103.0, "topics": [], "gone": [2], "changes": []}, False)
    assert [(each.name, each.rate) for each in state.topics.values()] == [("a", 0.0)]
    state.take(told(104.0, topic(1, "a", 3500)), True)
    assert state.topics[1].rate == 500.0
    state.take(told(105.0, topic(1, "a", 4000), pid=2), True)
    assert state.topics[1].rate == 0.0


def test_a_change_that_grew_takes_the_place_of_what_it_was() -> None:
    state = State()
    state.take(told(1.0, changes=[change(1), change(2, "path")]), True)
    state.take({"at": 2.0, "topics": [], "gone": [], "changes": [change(3)]}, False)
    assert [each["number"] for each in state.changes] == [2, 3]
    state.take(
        {"at": 3.0, "topics": [], "gone": [], "changes": [change(n, str(n)) for n in range(4, 200)]}, False
    )
    assert [each["number"] for each in state.changes] == [*range(100, 200)]


@pytest.mark.parametrize(
    ("before", "refused", "lost"),
    [(9, {}, 9), (9, {"over_rate": 7}, 2), (9, {"over_rate": 12}, 0), (9, {"no_member": 7}, 9)],
)
def test_what_is_over_a_topics_rate_is_refused_and_not_lost_before(
    before: int, refused: dict[str, int], lost: int
) -> None:
    state = State()
    of = {"lost_before": {"publishers": 1, "at_least": before}, "refused": refused}
    state.take(told(1.0, topic(1, "press", lost=3, **of)), True)
    assert state.topics[1].lost == 3 + lost


@pytest.mark.parametrize(
    ("sort", "first"),
    [(Sort.RATE, "busy"), (Sort.LAG, "late"), (Sort.LOSS, "lossy"), (Sort.LATENCY, "slow"), (Sort.NAME, "a")],
)
def test_topics_are_sorted_and_found(sort: Sort, first: str) -> None:
    state = State()
    latency = {"since_sent": {"p99_ns": 9_000_000}}
    topics = [
        topic(1, "a"), topic(2, "busy"), topic(3, "late", waiting=9), topic(4, "lossy", lost=3),
        topic(5, "slow", latency=latency),
    ]  # fmt: skip
    state.take(told(1.0, *topics), True)
    state.take({"at": 2.0, "topics": [topic(2, "busy", 500)], "gone": [], "changes": []}, False)
    assert listed(state, Wish(sort=sort))[0].name == first
    assert [each.name for each in listed(state, Wish(find="LOSS"))] == ["lossy"]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (40, 8), (10, 3), (1, 1)])
@pytest.mark.parametrize(
    "wish", [Wish(), *(Wish(view=view) for view in View), Wish(opened=1), Wish(keys=True)], ids=str
)
def test_whatever_is_told_fits_and_cannot_command_the_terminal(width: int, height: int, wish: Wish) -> None:
    wish = Wish(view=wish.view, opened=wish.opened, keys=wish.keys)
    state = State()
    hostile = topic(1, "press\x1b[2J", reason="why\x07 not\n" * 30, lost=2)
    many = [topic(number, f"t{number}") for number in range(2, 400)]
    wrong = [finding(cause="\x1b]0;x\x07" * 20)]
    state.take(told(1.0, hostile, *many, wrong=wrong, changes=[change(n) for n in range(50)]), True)
    lines = text(screen(state, wish, width, height))
    assert len(lines) == height
    assert all(len(line) <= width and line.isprintable() for line in lines)


def test_the_first_lines_say_what_is_wrong_since_when_and_what_to_do() -> None:
    state = State()
    state.take(told(100.0, topic(1, "press"), wrong=[finding(), finding(code="TD404")]), True)
    lines = text(screen(state, Wish(), WIDTH, HEIGHT))
    assert lines[0] == "here: TD407 losses (and 1 more: f): press"
    assert lines[1].endswith(": 7 lost")
    assert lines[2] == "what to do: tempos ledger press"
    state.take({"at": 200.0, "topics": [], "gone": [], "changes": [], "wrong": [finding(now=False)]}, False)
    lines = text(screen(state, Wish(), WIDTH, HEIGHT))
    assert lines[0] == "here: nothing goes wrong now"
    assert "TD407 losses: press, 7 lost" in lines[1]
    state.trouble = "no answer"
    assert text(screen(state, Wish(), WIDTH, HEIGHT))[0].startswith("here: not live, as it was at ")


def test_the_chosen_one_stays_on_the_screen() -> None:
    state, wish = State(), Wish(sort=Sort.NAME)
    state.take(told(1.0, *(topic(number, f"t{number:03}") for number in range(1, 101))), True)
    for chosen, first in ((0, "t001"), (50, None), (1 << 30, None), (99, None)):
        wish.chosen = chosen
        lines = text(screen(state, wish, WIDTH, HEIGHT))
        at = min(chosen, 99) + 1
        assert any(line.startswith(f"t{at:03} ") for line in lines)
        assert first is None or lines[6].startswith(first)
        assert lines[-2].startswith(f"t{at:03}: all of it")
