"""What was lost before the broker, per publisher: bounds that hold in any history, exact where it can be."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tempos.control import Heard, Lacking, Sent, Told
from tempos_broker.account.accounts import Holder
from tempos_broker.account.bounds import SETTLE, PublisherRow, Undelivered
from tempos_broker.account.publishers import (
    ENDED,
    NUMBERS,
    PUBLISHERS,
    QUIET,
    ROWS,
    STORED,
    Publishers,
    PublishersAccount,
)

A, B, C = (Holder("10.0.2.2", port, 1) for port in (5001, 5002, 5003))
BARE = Holder("10.0.2.9", 9998, None)
IP = "10.0.1.2"


def publishers() -> Publishers:
    return Publishers(lambda topic, group: Undelivered(0, 0))


def say(
    of: Publishers, publisher: int, numbered: int, *, unsent: int = 0, datagrams: int | None = None,
    began: float | None = 1.0, final: bool = True, now: float = 10.0,
) -> None:  # fmt: skip
    row = Sent(1, numbered, unsent, numbered - unsent if datagrams is None else datagrams, 0)
    of.said(publisher, row, ip=IP, began=began, final=final, now=now)


def hear(
    of: Publishers, holder: Holder, publisher: int, events: int, first: int, passed: int, *,
    lost: int = 0, datagrams: int | None = None, group: str = "g", now: float = 11.0,
) -> None:  # fmt: skip
    count = events if datagrams is None else datagrams
    of.heard(holder, Heard(1, group, publisher, count, events, first, passed, lost), now)
    of.complete(holder, now)


def look(of: Publishers, received: int = 10**9, **undelivered: Undelivered) -> PublishersAccount:
    return of.account(1, received, undelivered)


def only(of: Publishers, received: int = 10**9, **undelivered: Undelivered) -> PublisherRow:
    (row,) = look(of, received, **undelivered).rows
    return row


def test_what_no_member_got_and_nobody_lost_behind_the_broker_was_lost_before_it() -> None:
    of = publishers()
    of.in_force(1, [("g", [A, B])], 0.5)
    say(of, 7, 600)
    hear(of, A, 7, 290, 2, 597)
    # The other has not said anything yet: the 308 may be with it.
    row = only(of)
    assert (row.at_least, row.at_most, row.whole, row.settled) == (0, 309, True, False)
    hear(of, B, 7, 285, 0, 595)
    row = only(of)
    assert (row.sent, row.received, row.at_least, row.at_most) == (600, {"g": 575}, 25, 25)
    assert (row.tells, row.final, row.ip, row.whole, row.settled) == (True, True, IP, True, True)
    # Two deliveries are missing behind the broker: they may have been of the 25.
    row = only(of, g=Undelivered(1, 1))
    assert (row.at_least, row.at_most) == (23, 25)
    account = look(of)
    assert (account.sent, account.at_least, account.at_most) == (600, 25, 25)


def test_one_group_that_got_all_its_tickets_knows_for_all() -> None:
    of = publishers()
    of.in_force(1, [("g", [A]), ("h", [B])], 0.5)
    say(of, 7, 100)
    hear(of, A, 7, 80, 0, 100)
    hear(of, B, 7, 90, 0, 100, group="h")
    row = only(of, g=Undelivered(10, 0))
    assert (row.at_least, row.at_most, row.received) == (10, 10, {"g": 80, "h": 90})


def test_a_group_that_came_later_tells_of_what_came_later() -> None:
    of = publishers()
    of.in_force(1, [("g", [A])], 5.0)
    say(of, 7, 600)
    hear(of, A, 7, 275, 300, 290)
    row = only(of)
    assert (row.at_least, row.at_most, row.whole, row.sent) == (25, 25, False, 600)
    # Nothing is said of those before; over all, that is unknown.
    assert (look(of).at_least, look(of).at_most) == (25, None)


def test_who_tells_nothing_is_known_by_the_numbers_of_its_events() -> None:
    of = publishers()
    of.in_force(1, [("g", [A, B])], 0.5)
    hear(of, A, 7, 50, 10, 100)
    hear(of, B, 7, 45, 12, 96)
    row = only(of)
    # The quickest is at 110, the slowest at 108: what lies between may still be told by it.
    assert (row.tells, row.sent, row.at_least, row.at_most, row.whole) == (False, 100, 3, 5, False)
    assert row.datagrams is None


def test_nothing_of_a_publisher_came_at_all() -> None:
    of = publishers()
    of.in_force(1, [("g", [A])], 0.5)
    say(of, 7, 40, now=10.0)
    of.complete(A, 10.0 + SETTLE / 2)
    assert (only(of).at_least, only(of).at_most) == (0, None)
    of.complete(A, 10.0 + SETTLE)
    assert (only(of).at_least, only(of).at_most) == (40, 40)
    # Without members nobody knows, but for what came in at all.
    alone = publishers()
    say(alone, 7, 40)
    assert (only(alone).at_least, only(alone).at_most) == (0, None)
    assert (only(alone, received=33).at_least, only(alone, received=33).at_most) == (7, None)
    assert look(alone, received=33).at_least == 7


@pytest.mark.parametrize("who", [BARE, C])
def test_a_member_that_says_nothing_leaves_only_an_at_most(who: Holder) -> None:
    of = publishers()
    of.in_force(1, [("g", [A, who])], 0.5)
    say(of, 7, 100)
    hear(of, A, 7, 48, 0, 99)
    row = only(of)
    assert row.at_least == 0
    assert row.at_most in (51, 52)


def test_batches_and_what_was_never_sent() -> None:
    of = publishers()
    of.in_force(1, [("g", [A])], 0.5)
    say(of, 7, 600, unsent=3, datagrams=60)
    hear(of, A, 7, 550, 0, 600, datagrams=55)
    assert (only(of).at_least, only(of).at_most) == (47, 47)
    # A delivery may have held any number of them: no more is known than that datagrams are lacking.
    of.lacking(A, Lacking(1, "g", 2, 0))
    row = only(of, g=Undelivered(0, 2))
    assert (row.at_least, row.at_most) == (3, 47)


def test_a_group_that_ended_keeps_what_it_knew() -> None:
    of = publishers()
    of.in_force(1, [("g", [A])], 0.5)
    hear(of, A, 7, 90, 0, 95)
    say(of, 7, 100)
    hear(of, A, 7, 80, 0, 85)
    of.in_force(1, [], 12.0)
    # It may still have something to tell.
    assert (only(of).at_least, only(of).at_most, only(of).settled) == (5, 5, False)
    hear(of, A, 7, 90, 0, 95, now=12.0)
    assert (only(of).at_least, only(of).at_most, only(of).settled) == (10, 10, True)
    of.end(1, "g")
    assert (only(of).at_least, only(of).at_most) == (10, 10)
    # A group of that name begins anew, and what an old member says counts nowhere.
    of.in_force(1, [("g", [B])], 13.0)
    hear(of, A, 7, 95, 0, 95, now=14.0)
    assert only(of).received == {}
    # What a publisher sent when a group had ended was none of its.
    more = publishers()
    more.in_force(1, [("g", [A])], 0.5)
    hear(more, A, 7, 90, 0, 95)
    more.in_force(1, [], 12.0)
    more.complete(A, 12.0)
    say(more, 7, 1000, now=20.0)
    assert (only(more).at_least, only(more).at_most, only(more).whole) == (5, 5, False)


def test_a_publisher_that_a_member_had_forgotten_begins_a_new_stretch_there() -> None:
    of = publishers()
    of.in_force(1, [("g", [A])], 0.5)
    hear(of, A, 7, 10, 0, 10)
    hear(of, A, 7, 8, 0, 8)
    of.lacking(A, Lacking(1, "g", 0, 5))
    hear(of, A, 7, 3, 15, 3)
    say(of, 7, 18)
    hear(of, A, 7, 4, 15, 4, now=12.0)
    row = only(of)
    assert row.received == {"g": 14}
    assert (row.at_least, row.at_most) == (0, 5)


def test_old_words_that_were_overtaken_change_nothing() -> None:
    of = publishers()
    of.in_force(1, [("g", [A])], 0.5)
    say(of, 7, 100, final=False, now=3.0)
    say(of, 7, 50, final=False, now=9.0)
    hear(of, A, 7, 100, 0, 100, now=4.0)
    hear(of, A, 7, 60, 0, 60, now=5.0)
    row = only(of)
    assert (row.sent, row.received, row.final, row.at_most) == (100, {"g": 100}, False, 0)


def test_members_are_told_what_publishers_say_version_by_version() -> None:
    of = publishers()
    for number in range(5):
        say(of, number, 10 + number, final=False)
    assert [told.publisher for told in of.news(1, 0)] == [0, 1, 2, 3, 4]
    say(of, 1, 99, final=False)
    say(of, 1, 99, final=False)
    assert list(of.news(1, 4)) == [Told(1, 4, 5, 14, 0, 14, 0), Told(1, 1, 6, 99, 0, 99, 0)]
    assert list(of.news(1, 6)) == []
    assert list(of.news(9, 0)) == []


def test_memory_is_bounded_and_the_sums_stay() -> None:
    of = publishers()
    of.in_force(1, [("g", [A])], 0.5)
    for number in range(3 * PUBLISHERS):
        say(of, number, 10, now=10.0 + number)
        hear(of, A, number, 9, 0, 10, now=10.5 + number)
    account = look(of)
    assert len(account.rows) == PUBLISHERS
    assert account.forgotten == 2 * PUBLISHERS
    assert (account.sent, account.at_least, account.at_most) == (
        30 * PUBLISHERS,
        3 * PUBLISHERS,
        3 * PUBLISHERS,
    )
    assert account.unfollowed == 0
    assert look(of, received=27 * PUBLISHERS - 5).at_least == 3 * PUBLISHERS + 5
    # Nobody that may still be sending is forgotten for a newcomer.
    busy = publishers()
    for number in range(NUMBERS + 2 * PUBLISHERS):
        say(busy, number, 10, final=False, now=100.0)
    account = look(busy)
    assert (len(account.rows), account.forgotten, account.unfollowed) == (PUBLISHERS, 0, NUMBERS)
    assert account.at_most is None
    say(busy, 10**6, 10, final=False, now=101.0 + QUIET)
    assert look(busy).forgotten == 1


def test_another_life_goes_on_with_what_was_known() -> None:
    of = publishers()
    of.in_force(1, [("g", [A])], 0.5)
    say(of, 7, 100, now=10.0)
    hear(of, A, 7, 90, 0, 100)
    of.in_force(1, [], 12.0)
    of.complete(A, 12.0)
    of.end(1, "g")
    say(of, 8, 50, final=False, now=13.0)
    stored = json.loads(json.dumps(of.export(1, 20.0)))
    again = publishers()
    again.restore(1, stored, 1000.0)
    assert again.export(1, 1000.0) == stored
    rows = {row.publisher: row for row in look(again).rows}
    assert (rows[7].at_least, rows[7].at_most, rows[7].sent) == (10, 10, 100)
    # Members tell again; they cannot say that they were there before it began.
    again.in_force(1, [("g", [A])], 1000.5)
    say(again, 8, 60, began=None, now=1001.0)
    hear(again, A, 8, 55, 1, 59, now=1002.0)
    rows = {row.publisher: row for row in look(again).rows}
    assert (rows[8].at_least, rows[8].at_most, rows[8].whole) == (4, 4, False)
    assert publishers().export(1, 0) is None


def next_life(of: Publishers, now: float) -> Publishers:
    again = publishers()
    again.restore(1, json.loads(json.dumps(of.export(1, now))), now)
    return again


def test_what_members_got_that_left_in_a_former_life_or_did_not_come_back_is_not_lost() -> None:
    of = publishers()
    of.in_force(1, [("g", [A, B, C])], 0.5)
    for at, each in enumerate((A, B, C)):
        hear(of, each, 7, 100, at, 298)
    of.lacking(A, Lacking(1, "g", 3, 0))
    of.in_force(1, [("g", [A, B])], 12.0)
    again = next_life(of, 20.0)
    assert again.export(1, 20.0) == json.loads(json.dumps(of.export(1, 20.0)))
    again.in_force(1, [("g", [A, B])], 21.0)
    assert only(again).at_least == 0, "nobody has told anything yet"
    # B is not there any more; of what A tells now five were lost before it, and three behind.
    again.in_force(1, [("g", [A])], 22.0)
    hear(again, A, 7, 100 + 42, 0, 350, now=23.0)
    assert (only(again).at_least, only(again).received) == (5, {"g": 342})
    third = next_life(again, 24.0)
    third.in_force(1, [("g", [A])], 25.0)
    assert (only(third).at_least, only(third).received) == (5, {"g": 342})


def test_of_a_crowd_is_stored_what_those_that_left_got() -> None:
    many = [Holder("10.0.2.7", 1 + n, n) for n in range(STORED + 2)]
    of = publishers()
    of.in_force(1, [("g", many)], 0.5)
    for n, each in enumerate(many):
        hear(of, each, 7, 1, n, 1)
    of.in_force(1, [("g", many[1:])], 1.0)
    stored = of.export(1, 2.0)
    assert stored is not None
    assert [rows for _, _, _, rows in stored["heard"]] == [[[7, None, 1, 1, 0, 1, 0, 0, 0]]]
    again = next_life(of, 3.0)
    again.in_force(1, [("g", many[1:])], 4.0)
    for n, each in enumerate(many[1:]):
        hear(again, each, 7, 1, n + 1, 1)
    assert (only(again).received, only(again).at_least) == ({"g": len(many)}, 0)


@pytest.mark.parametrize("at", range(9))
def test_what_makes_no_sense_is_refused(at: int) -> None:
    of = publishers()
    of.in_force(1, [("g", [A])], 0.5)
    hear(of, A, 7, 90, 0, 100)
    stored = of.export(1, 1.0)
    assert stored is not None
    row = stored["heard"][0][3][0]
    for wrong in ("x", *([-1] if 0 < at < 7 else [])):
        row[at], right = wrong, row[at]
        with pytest.raises((ValueError, TypeError)):
            publishers().restore(1, stored, 2.0)
        row[at] = right
    publishers().restore(1, stored, 2.0)


@dataclass
class Member:
    """A member by hand: what it got, as it would tell it."""

    got: dict[int, list[int]] = field(default_factory=dict)
    datagrams: Counter[int] = field(default_factory=Counter)
    last: int = -1
    count: int = 0

    def tell(self, of: Publishers, holder: Holder, now: float) -> None:
        for publisher, numbers in self.got.items():
            first, end = min(numbers), max(numbers) + 1
            row = Heard(1, "g", publisher, self.datagrams[publisher], len(numbers), first, end - first, 0)
            of.heard(holder, row, now)
        of.lacking(holder, Lacking(1, "g", self.last + 1 - self.count, 0))
        of.complete(holder, now)


@given(
    st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.0, 0.1]), st.booleans(),
)  # fmt: skip
@example(3, 3, 3, 0.1, 0.1, True)
def test_bounds_hold_in_any_history(
    seed: int, sources: int, members: int, before: float, behind: float, batches: bool
) -> None:
    rng = random.Random(seed)
    of = publishers()
    holders = [A, B, C][:members]
    crowd = {holder: Member() for holder in holders}
    of.in_force(1, [("g", holders)], 0.0)
    numbered: Counter[int] = Counter()
    datagrams: Counter[int] = Counter()
    lost: Counter[int] = Counter()
    sequences: Counter[Holder] = Counter()
    delivered = tickets = received = 0
    now = 1.0
    for step in range(300):
        now += 0.01
        publisher = rng.randrange(sources)
        events = rng.randint(1, 5) if batches and publisher % 2 else 1
        numbers = range(numbered[publisher], numbered[publisher] + events)
        numbered[publisher] += events
        datagrams[publisher] += 1
        if rng.random() < before:
            lost[publisher] += events
        else:
            received += 1
            holder = holders[tickets % members]
            tickets += 1
            sequences[holder] += 1
            if rng.random() >= behind:
                member = crowd[holder]
                member.got.setdefault(publisher, []).extend(numbers)
                member.datagrams[publisher] += 1
                member.last, member.count = sequences[holder] - 1, member.count + 1
                delivered += 1
        if rng.random() < 0.02:
            holder = rng.choice(holders)
            crowd[holder].tell(of, holder, now)
        if rng.random() < 0.02:
            say(
                of,
                publisher,
                numbered[publisher],
                datagrams=datagrams[publisher],
                began=0.5,
                final=False,
                now=now,
            )
        if step % 50 == 49:
            known = Undelivered(0, tickets - delivered)
            for row in look(of, received, g=known).rows:
                assert row.at_least <= lost[row.publisher], step
    for publisher in numbered:
        say(of, publisher, numbered[publisher], datagrams=datagrams[publisher], began=0.5, now=now)
    for holder, member in crowd.items():
        member.tell(of, holder, now + 1)
    account = look(of, received, g=Undelivered(0, tickets - delivered))
    for row in account.rows:
        assert row.at_most is not None
        assert row.at_least <= lost[row.publisher] <= row.at_most
        if tickets == delivered:
            assert row.at_least == row.at_most
    assert account.at_most is not None
    assert account.at_least <= sum(lost.values()) <= account.at_most


@given(st.integers(0, 2**32))
def test_no_life_claims_a_loss_that_there_was_not(seed: int) -> None:
    """Members come, leave and die, brokers are started anew; one of ten events is lost before them."""
    rng = random.Random(seed)
    of, crowd, told = publishers(), {A: Member(), B: Member()}, {A: 0, B: 0}
    of.in_force(1, [("g", list(crowd))], 0.0)
    lost = never = 0
    for step in range(300):
        now = 1.0 + step / 100
        if rng.random() < 0.1:
            lost += 1
        else:
            member = rng.choice(list(crowd.values()))
            member.got.setdefault(7, []).append(step)
            member.datagrams[7] += 1
        if rng.random() < 0.1:
            holder = rng.choice(list(crowd))
            crowd[holder].count = crowd[holder].last + 1
            crowd[holder].tell(of, holder, now)
            told[holder] = crowd[holder].datagrams[7]
        if rng.random() < 0.05:
            holder = rng.choice([A, B, C])
            if holder not in crowd:
                holder = Holder(holder.ip, holder.port, step + 2)
                crowd[holder], told[holder] = Member(), 0
            elif len(crowd) > 1:
                never += crowd.pop(holder).datagrams[7] - told[holder]
            of.in_force(1, [("g", list(crowd))], now)
        if rng.random() < 0.03 and of.export(1, now):
            of = next_life(of, now)
            of.in_force(1, [("g", list(crowd))], now)
        for row in look(of, g=Undelivered(never, 0)).rows:
            assert row.at_least <= lost, step


def test_members_that_come_and_go_beside_one_that_stays_leave_one_row_and_the_account_is_exact() -> None:
    """Of ten events the guest gets nine, who stays gets one; of every hundred one is lost on the way."""
    of, now, numbered, lost = publishers(), 10.0, 0, 0
    of.in_force(1, [("g", [A])], now)
    say(of, 7, 0, began=now, final=False, now=now)
    mine = 0
    for n in range(3 * ROWS // 2):
        now += 5.0
        guest = Holder("10.0.2.7", 1 + n, n)
        of.in_force(1, [("g", [A, guest])], now)
        taken = 9 - (n % 10 == 0)
        hear(of, guest, 7, taken, numbered, 10, now=now)
        numbered, mine, lost = numbered + 10, mine + 1, lost + (n % 10 == 0)
        hear(of, A, 7, mine, 0, numbered, now=now)
        of.in_force(1, [("g", [A])], now)
    assert of._topics[1].rows <= 2 + ENDED
    assert len(of._topics[1].groups["g"].members) <= 2 + ENDED
    say(of, 7, numbered, now=now)
    for each in (A, guest):
        of.complete(each, now + 1)
    row = only(of)
    assert (row.at_least, row.at_most, row.whole, row.settled) == (lost, lost, True, True)
    assert row.received == {"g": numbered - lost}
    # One of the first is back, and tells a total in which there is what it got at first.
    back = Holder("10.0.2.7", 2, 1)
    of.in_force(1, [("g", [A, back])], now + 5)
    hear(of, back, 7, 9 + 5, 10, numbered, now=now + 6)
    hear(of, back, 7, 9 + 10, 10, numbered, now=now + 7)
    say(of, 7, numbered + 10, now=now + 7)
    for each in (A, back):
        of.complete(each, now + 8)
    row = only(of)
    assert row.at_most is not None
    assert row.at_least <= lost <= row.at_most <= lost + 5, "what it told first may be old or new"


def test_a_group_without_room_for_what_a_member_tells_claims_no_losses() -> None:
    of = publishers()
    many = [Holder("10.0.2.7", 1 + n, n) for n in range(ROWS + 1)]
    of.in_force(1, [("g", many)], 0.5)
    say(of, 7, len(many))
    for n, each in enumerate(many):
        hear(of, each, 7, 1, n, 1)
    assert only(of).at_least == 0
