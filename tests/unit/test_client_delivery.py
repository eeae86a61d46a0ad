"""What a member can tell about its own losses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tempos.control import Received
from tempos.delivery import AGAIN, KEPT_EPOCHS, KEPT_HOLES, LATE, LATE_EPOCHS, GapTracker


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[int, int]]:
    """(epoch, sequence) as they arrive: some lost, some twice, each displaced by a bounded amount."""
    first = draw(st.integers(0, 300))
    sent = [
        (epoch & 0xFF, sequence)
        for epoch, size in enumerate(draw(st.lists(st.integers(0, 12), min_size=1, max_size=8)), first)
        for sequence in range(size)
    ]
    copies = draw(st.lists(st.sampled_from([1, 1, 1, 0, 2]), min_size=len(sent), max_size=len(sent)))
    late = draw(st.lists(st.integers(0, 9), min_size=2 * len(sent), max_size=2 * len(sent)))
    placed = [
        (index + late[2 * index + copy], copy, stamp)
        for index, stamp in enumerate(sent)
        for copy in range(copies[index])
    ]
    return [stamp for _, _, stamp in sorted(placed, key=lambda entry: entry[:2])]


@given(arrivals())
def test_the_account_agrees_with_what_arrived(stamps: list[tuple[int, int]]) -> None:
    tracker = GapTracker()
    tracker.in_force(stamps[0][0] + 0x300 if stamps else 1)
    told = [tracker.see(epoch, sequence) for epoch, sequence in stamps]
    distinct = set(stamps)
    highest: dict[int, int] = {}
    for epoch, sequence in distinct:
        highest[epoch] = max(highest.get(epoch, -1), sequence)
    assert tracker.received == len(distinct)
    assert tracker.missed == sum(top + 1 for top in highest.values()) - len(distinct)
    assert tracker.duplicates + tracker.unstamped == len(stamps) - len(distinct)
    # Whatever was told as missing and was not taken back is missing: a sum that nobody can read wrong.
    assert told.count(AGAIN) == tracker.duplicates
    assert told.count(LATE) == tracker.late
    assert sum(gap for gap in told if gap != AGAIN) == tracker.missed
    rows = {row.epoch & 0xFF: row.datagrams for row in tracker.report(7, "g")}
    if stamps:
        assert rows == {epoch: sum(1 for stamp in distinct if stamp[0] == epoch) for epoch in highest}
        assert all(0x300 - LATE_EPOCHS <= row.epoch < 0x500 for row in tracker.report(7, "g"))


def test_a_first_sequence_above_zero_was_preceded_by_losses() -> None:
    tracker = GapTracker()
    assert tracker.see(3, 5) == 5
    assert tracker.see(3, 6) == 0
    assert tracker.see(4, 2) == 2
    assert tracker.see(3, 9) == 2
    assert (tracker.received, tracker.missed) == (4, 9)
    assert tracker.see(3, 0) == LATE
    assert (tracker.received, tracker.missed, tracker.late) == (5, 8, 1)
    assert tracker.see(3, 0) == AGAIN
    assert tracker.duplicates == 1


def test_epoch_and_sequence_wrap() -> None:
    tracker = GapTracker()
    assert tracker.see(255, 2**31 - 1) == 2**31 - 1
    assert tracker.see(255, 2**32 - 1) == 2**31 - 1
    assert tracker.see(255, 0) == 0
    assert tracker.see(0, 0) == 0
    assert tracker.see(255, 2) == 1
    assert tracker.see(0, 1) == 0
    assert tracker.duplicates == 0


def test_an_epoch_far_ahead_is_news_and_a_little_behind_is_late() -> None:
    tracker = GapTracker()
    tracker.see(100, 0)
    # 156 epochs without a datagram for this member, up to the same number less the late ones.
    tracker.see((100 - LATE_EPOCHS - 1) & 0xFF, 0)
    assert [row.epoch & 0xFF for row in tracker.report(1, "g")][-1] == 100 - LATE_EPOCHS - 1
    tracker.see(100, 0)
    assert tracker.duplicates == 0
    tracker.see(100 - LATE_EPOCHS, 0)
    tracker.see(100, 1)
    assert (tracker.received, tracker.missed) == (5, 0)


def test_counts_are_reported_until_the_broker_has_them() -> None:
    tracker = GapTracker()
    assert tracker.report(7, "g") == []
    tracker.in_force(4)
    assert tracker.report(7, "g") == [Received(7, "g", 4, 0)]
    tracker.see(4, 0)
    tracker.see(5, 0)
    assert tracker.report(7, "g") == [Received(7, "g", 4, 1), Received(7, "g", 5, 1)]
    for row in tracker.report(7, "g"):
        tracker.acknowledge(row)
    assert tracker.report(7, "g") == []
    assert tracker.report(7, "g", again=True) == [Received(7, "g", 5, 1)]
    tracker.see(4, 2)
    assert tracker.report(7, "g") == [Received(7, "g", 4, 2)]
    tracker.acknowledge(Received(7, "g", 4, 2))
    tracker.tell_again()
    assert tracker.report(7, "g") == [Received(7, "g", 4, 2), Received(7, "g", 5, 1)]


def test_an_epoch_is_known_by_its_full_number_however_long_nothing_came() -> None:
    tracker = GapTracker()
    tracker.in_force(5)
    for sequence in range(100):
        tracker.see(5, sequence)
    tracker.acknowledge(Received(7, "g", 5, 100))
    for epoch in (100, 200, 261):
        tracker.in_force(epoch)
        tracker.acknowledge(Received(7, "g", epoch, 0))
    # The same 8 bits and a sequence that was there before: 256 epochs later these are other events.
    assert [tracker.see(5, sequence) for sequence in (0, 1, 3)] == [0, 0, 1]
    assert (tracker.received, tracker.missed, tracker.duplicates) == (103, 1, 0)
    assert tracker.report(7, "g") == [Received(7, "g", 261, 3)]
    # One epoch on, and one that is late.
    assert [tracker.see(6, 0), tracker.see(5, 2), tracker.see(4, 0)] == [0, LATE, 0]
    assert {row.epoch: row.datagrams for row in tracker.report(7, "g")} == {261: 4, 262: 1, 260: 1}


def test_what_came_before_anybody_told_is_put_right_when_the_broker_tells() -> None:
    tracker = GapTracker()
    tracker.in_force(300)
    tracker.see(300 & 0xFF, 0)
    # An instance that begins anew, its datagrams quicker than its first answer.
    tracker.see(3, 0)
    tracker.see(3, 1)
    assert tracker.report(7, "g")[-1].epoch > 300
    tracker.in_force(3)
    assert tracker.report(7, "g")[-1] == Received(7, "g", 3, 2)
    assert [tracker.see(3, 2), tracker.see(3, 1)] == [0, AGAIN]


def test_another_broker_that_begins_anew_is_no_loss() -> None:
    for epoch in (1, 4, 5, 6):
        tracker = GapTracker()
        tracker.in_force(5)
        for sequence in range(100):
            tracker.see(5, sequence)
        tracker.new_broker()
        assert tracker.report(7, "g") == []
        tracker.in_force(epoch)
        assert tracker.see(epoch, 0) == 0
        assert tracker.see(epoch, 2) == 1
        assert (tracker.received, tracker.missed, tracker.duplicates) == (102, 1, 0)
        assert tracker.report(7, "g")[-1] == Received(7, "g", epoch, 2)


def test_another_broker_that_goes_on_with_the_routes_is_no_loss_either() -> None:
    tracker = GapTracker()
    for sequence in range(100):
        tracker.see(5, sequence)
    tracker.new_broker()
    assert tracker.see(5, 103) == 3
    assert (tracker.received, tracker.missed) == (101, 3)
    assert tracker.see(5, 101) == LATE
    assert (tracker.late, tracker.missed) == (1, 2)
    # What came before is in no account of the instance that answers now: it may be another broker's.
    (row,) = tracker.report(7, "g")
    assert row.datagrams == 2
    tracker.acknowledge(row)
    assert tracker.report(7, "g") == []
    tracker.tell_again()
    assert [each.datagrams for each in tracker.report(7, "g")] == [2]


def test_unstamped_datagrams_are_no_duplicates() -> None:
    tracker = GapTracker()
    assert [tracker.see(0, 0) for _ in range(5)] == [0] * 5
    assert (tracker.unstamped, tracker.duplicates, tracker.missed) == (4, 0, 0)


def test_memory_is_bounded_whatever_is_lost() -> None:
    tracker = GapTracker()
    for sequence in range(1, 4 * KEPT_HOLES, 2):
        tracker.see(1, sequence)
    missed = tracker.missed
    tracker.see(1, 0)
    assert (tracker.duplicates, tracker.missed) == (1, missed)
    tracker.see(1, 4 * KEPT_HOLES - 2)
    assert (tracker.late, tracker.missed) == (1, missed - 1)
    for epoch in range(2, 1002):
        tracker.see(epoch & 0xFF, 0)
    assert len(tracker.report(1, "g")) <= KEPT_EPOCHS
    assert tracker.received == 2 * KEPT_HOLES + 1 + 1000
