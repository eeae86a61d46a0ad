"""Ticks by a clock in the test's hand: none twice, none too early, what was missed counted."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import ConfigError
from tempos_trigger import layout
from tempos_trigger.sources.timer import BACK, GRACE, cron, every

ROME = ZoneInfo("Europe/Rome")


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ROME).timestamp()


@given(st.floats(0.001, 1e4), st.floats(0, 1e6), st.lists(st.floats(0.0001, 3), min_size=1, max_size=50))
def test_an_interval_neither_drifts_nor_repeats(seconds: float, start: float, steps: list[float]) -> None:
    ticks = every(seconds, start)
    now, told, missed = start, [], 0
    for step in steps:
        now += step * seconds
        due, gone = ticks.look(now)
        assert all(now - GRACE <= tick <= now for tick in due)
        told += due
        missed += gone
    assert told == sorted(set(told))
    elapsed = (now - start) / seconds
    # But for what floats make of the last one.
    assert elapsed - 1.001 <= len(told) + missed <= elapsed + 0.001
    assert ticks.due is not None
    assert now < ticks.due <= now + seconds * 1.001


def test_a_cron_line_in_summer_and_winter() -> None:
    daily = cron("30 2 * * *", ROME, at("2025-03-29T12:00"))
    # On the 30th there is no half past two; what was due then comes right behind the gap.
    assert daily.due is not None
    due = [daily.due]
    for _ in range(2):
        daily.look(due[-1])
        assert daily.due is not None
        due.append(daily.due)
    assert [datetime.fromtimestamp(each, ROME).strftime("%d %H:%M") for each in due] == [
        "30 03:00", "31 02:30", "01 02:30",
    ]  # fmt: skip
    doubled = cron("30 2 * * *", ROME, at("2025-10-26T01:00"))
    assert doubled.due is not None
    first = doubled.due
    doubled.look(first)
    assert doubled.due == first + timedelta(hours=25).total_seconds()


def ticks_of_a_day(line: str, day: str) -> list[str]:
    ticks, found, end = cron(line, ROME, at(f"{day}T00:00") - 1), [], at(f"{day}T23:59")
    while ticks.due is not None and ticks.due < end:
        found.append(datetime.fromtimestamp(ticks.due, ROME).strftime("%H:%M:%S%z"))
        ticks.look(ticks.due)
    return found


@pytest.mark.parametrize(
    ("line", "begins", "ends"),
    [
        ("30 2 * * *", ["03:00:00+0200"], ["02:30:00+0200"]),
        # One number of seconds is the same line, so much later.
        ("7 30 2 * * *", ["03:00:07+0200"], ["02:30:07+0200"]),
        ("0 30 2 * * *", ["03:00:00+0200"], ["02:30:00+0200"]),
        # By the clock as it is: half an hour that is not there, and one that is there twice.
        ("*/30 2 * * *", [], ["02:00:00+0200", "02:30:00+0200", "02:00:00+0100", "02:30:00+0100"]),
        ("0,30 30 2 * * *", [],
         ["02:30:00+0200", "02:30:30+0200", "02:30:00+0100", "02:30:30+0100"]),
    ],
)  # fmt: skip
def test_what_summer_time_does_to_a_cron_line(line: str, begins: list[str], ends: list[str]) -> None:
    assert ticks_of_a_day(line, "2025-03-30") == begins
    assert ticks_of_a_day(line, "2025-10-26") == ends


def test_seconds_of_a_cron_line() -> None:
    start = at("2025-06-01T12:00:30")
    for line, gaps in (("30 * * * * *", [60, 60]), ("31 * * * * *", [1, 60]), ("*/20 * * * * *", [10, 20])):
        ticks = cron(line, ROME, start)
        for gap in gaps:
            before = ticks.last
            assert ticks.due == before + gap
            ticks.look(ticks.due)


def test_a_star_makes_day_and_weekday_both_count() -> None:
    start = at("2025-12-31T12:00")
    both, either = (cron(f"0 0 {day} * 1", ROME, start) for day in ("*/2", "1-31/2"))
    # The 1st is a Thursday, the 5th a Monday.
    assert (both.due, either.due) == (at("2026-01-05T00:00"), at("2026-01-01T00:00"))


def test_clocks_that_are_set() -> None:
    start = at("2025-06-01T12:00:30")
    ticks = cron("* * * * *", ROME, start)
    assert ticks.look(start + 30) == ([start + 30], 0)
    # Back by ten minutes: what has been told is not told again.
    assert ticks.look(start - 570) == ([], 0)
    assert ticks.due == start + 90
    # Back by more than an hour: the line counts from there.
    assert ticks.look(start - BACK) == ([], 0)
    assert ticks.due == start - BACK + 30
    # Forward by an hour and ten seconds: sixty ticks are gone.
    told, missed = ticks.look(start + 40)
    assert (told, missed) == ([], 61)
    ticks.once = True
    told, missed = ticks.look(start + 40 + 600)
    assert (told, missed) == ([start + 630], 9)
    # A clock that was set by years is not followed tick by tick.
    told, missed = ticks.look(start + 40 + 600 + 10 * 365 * 86_400)
    assert len(told) == 1
    assert missed >= 10_000
    assert ticks.due is not None
    assert ticks.due > start + 10 * 365 * 86_400


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "every and cron are both missing"),
        ({"every": 1, "cron": "* * * * *"}, "every and cron are both there"),
        ({"cron": "* * *"}, "Wrong number of fields"),
        ({"cron": "0 0 30 2 *"}, "Bad day-of-month"),
        ({"cron": 7}, "a cron line"),
        ({"cron": "* * * * *", "zone": "Mars/Olympus"}, "does not know"),
        ({"cron": "* * * * *", "zone": "../etc/passwd"}, "does not know"),
        ({"every": 0}, "a number of seconds from 0.001"),
        ({"every": 1, "body": "\ud800"}, "surrogate"),
    ],
)
def test_what_is_no_time(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        layout.parse({"endpoint": [{"name": "t", "kind": "timer", "topic": "t", **options}]}, "deployment")
