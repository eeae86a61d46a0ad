"""What is remembered of members that went: bounded, for a while, and as long as an operator wants."""

from __future__ import annotations

from tempos.control import Out
from tempos_broker.account.accounts import Holder
from tempos_broker.lives.memory import kept_out_in
from tempos_broker.members.departures import KEPT_OUT, NOTED, REMEMBERED, Departures, Place


def test_why_members_went_is_forgotten_in_time_and_beyond_a_number() -> None:
    departures = Departures()
    many = [Holder("10.0.0.1", 1 + n, n) for n in range(NOTED + 100)]
    for n, holder in enumerate(many):
        departures.note(1, holder, Out.LEASE, 1000.0 + n * 1e-3)
    assert departures.why(1, "alpha", many[99], 1005.0) is None
    assert departures.why(1, "alpha", many[100], 1005.0) == Out.LEASE
    departures.came(1, many[100])
    assert departures.why(1, "alpha", many[100], 1005.0) is None
    departures.tidy(1004.1 + REMEMBERED)
    assert [departures.why(1, "alpha", holder, 0.0) for holder in many[-97:-94]] == [
        None,
        Out.LEASE,
        Out.LEASE,
    ]
    departures.tidy(1010.0 + REMEMBERED)
    assert not any(departures.whys(holder) for holder in many)


def test_who_is_kept_out_is_so_under_any_client_until_then_and_in_the_next_life() -> None:
    departures, place = Departures(), Place("alpha", "g", "10.0.0.1", 5000)
    ever = Place("beta", "h", "10.0.0.2", 5000)
    departures.keep_out(place, 100.0, 1e9, 30.0)
    departures.keep_out(ever, 100.0, 1e9, None)
    departures.note(1, Holder("10.0.0.1", 5000, 1), Out.OPERATOR, 100.0)
    assert departures.why(1, "alpha", Holder("10.0.0.1", 5000, 1), 129.0) == Out.KEPT_OUT
    assert departures.why(1, "alpha", Holder("10.0.0.1", 5000, 1), 130.0) == Out.OPERATOR
    # For as long as he does, whatever is forgotten of how it went.
    assert departures.why(2, "beta", Holder("10.0.0.2", 5000, 7), 1e6) == Out.KEPT_OUT
    assert departures.kept_out(place._replace(group="other"), 110.0) is None
    # Stored by the wall clock, which goes on while nobody lives.
    stored = {"kept_out": [*departures.export(110.0, 1e9 + 10), ["no", "place"], [1, 2, 3, 4, 5], None]}
    for passed, left in ((19.0, [11.0, None]), (31.0, [None])):
        heir = Departures()
        heir.restore(kept_out_in(stored), 5.0, 2e9, 1e9 + passed)
        assert [kept.until and kept.until - 5.0 for kept in heir.all_kept_out(5.0)] == left
    for n in range(KEPT_OUT):
        departures.keep_out(Place("many", "g", "10.0.0.3", 1 + n), 100.0, 1e9, 1.0)
    assert departures.is_full(Place("one", "more", "10.0.0.4", 1))
    assert not departures.is_full(place)
    departures.tidy(200.0)
    assert [kept.place for kept in departures.all_kept_out(0.0)] == [ever]
    assert departures.let_in(ever, 200.0)
    assert departures.why(2, "beta", Holder("10.0.0.2", 5000, 7), 200.0) is None
    assert not departures._groups, "nothing is left of who is kept out no more"


def test_a_clock_that_is_set_keeps_nobody_out_for_longer() -> None:
    place = Place("alpha", "g", "10.0.0.1", 5000)
    for before in (0.0, -86400.0, 86400.0):
        departures, heir = Departures(), Departures()
        departures.keep_out(place, 100.0, 1e9, 30.0)
        # Set while the broker lives, and again between two lives.
        written = 1e9 + 10 + before
        stored = {"kept_out": departures.export(110.0, written)}
        heir.restore(kept_out_in(stored), 5.0, 2e9, written + 5.0)
        (kept,) = heir.all_kept_out(5.0)
        assert (kept.until, kept.wall) == (5.0 + 15.0, 2e9 + 15.0)
