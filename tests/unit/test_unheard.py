"""A member that is ticketed and tells of nothing is unheard, until it tells of something."""

from __future__ import annotations

from tempos_broker.members.unheard import BEATS, LEAST, Progress, beats_for


def test_one_that_tells_of_nothing_over_some_heartbeats_is_unheard_and_then_heard() -> None:
    member = Progress()
    told = [member.beat(LEAST * beat, 0) for beat in range(1, BEATS + 2)]
    assert told == [False] * (BEATS - 1) + [True, False]
    assert member.lost == LEAST * (BEATS + 1)
    assert member.beat(LEAST * 9, 1), "it is told that this is over"
    assert member.lost == 0


def test_who_gets_little_or_nothing_to_do_is_none() -> None:
    member = Progress()
    for _ in range(10):
        assert not member.beat(LEAST - 1, 0)
    assert member.lost == 0


def test_what_was_on_its_way_at_one_heartbeat_is_told_by_the_next() -> None:
    member = Progress()
    assert not member.beat(0, 0)
    assert not member.beat(1000, 0)
    assert not member.beat(2000, 1000)
    assert member.lost == 0


def test_one_that_was_heard_becomes_unheard_when_a_firewall_comes() -> None:
    member = Progress()
    member.beat(100, 100)
    told = [member.beat(100 + LEAST * beat, 100) for beat in range(1, BEATS + 1)]
    assert told == [False] * (BEATS - 1) + [True]
    assert member.lost == LEAST * BEATS


def test_a_program_that_has_no_time_for_a_moment_is_not_taken_for_one_behind_a_firewall() -> None:
    assert [beats_for(each) for each in (2.5, 0.5, 0.1, 0.03)] == [BEATS, BEATS, 10, 34]
    member = Progress(needed=beats_for(0.1))
    told = [member.beat(LEAST * beat, 0) for beat in range(1, 12)]
    assert told == [False] * 9 + [True, False]
    assert member.is_silent
