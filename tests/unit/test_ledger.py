"""The ledger: shares of tickets, reports of members, and identities that hold whatever happens."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import Reason
from tempos_broker.account.accounts import EPOCHS_KEPT, SETTLED_KEPT, Holder, share
from tempos_broker.account.ledger import Ledger, TopicLedger

A, B, C = (Holder("10.0.2.2", port, 1) for port in (5001, 5002, 5003))
BARE = Holder("10.0.2.9", 9998, None)


def look(ledger: Ledger, live: list[int], forwarded: int) -> TopicLedger:
    (epoch,) = ledger.open_epochs(1)
    return ledger.topic(1, live={epoch: live}, received=forwarded, fast=0, slow=forwarded, refused={})


def tickets_of(drawn: Mapping[int, Sequence[int]]) -> Callable[[int, int, int], int]:
    """As the broker tells them, of the one topic: by epoch."""
    return lambda topic, epoch, group: drawn[epoch][group] if epoch in drawn else 0


@given(st.integers(0, 10**9), st.integers(1, 64))
def test_shares_sum_up_and_differ_by_one_at_most(tickets: int, members: int) -> None:
    shares = [share(tickets, index, members) for index in range(members)]
    assert sum(shares) == tickets
    assert shares == sorted(shares, reverse=True)
    assert max(shares) - min(shares) <= 1


def test_an_epoch_from_opening_to_the_last_report() -> None:
    ledger = Ledger()
    ledger.opened(1, 1, [("g", [A, B]), ("~", [BARE])], 0)
    assert look(ledger, [7, 7], 7).balanced
    ledger.opened(1, 2, [("g", [B])], 0)
    ledger.closed(1, 1, [7, 7])
    ledger.report(1, "g", A, 1, 4)
    ledger.report(1, "g", B, 1, 2)
    account = look(ledger, [2], 9)
    group, own = account.groups
    assert (group.tickets, group.delivered, group.unconfirmed, group.lost, group.unknown) == (9, 6, 3, 0, 0)
    assert (own.tickets, own.unknown) == (7, 7)
    assert account.balanced
    assert [each.outstanding for each in ledger.accounts(B)] == [1]
    ledger.report(1, "g", B, 1, 3)
    assert [each.outstanding for each in ledger.accounts(B)] == [0]


def test_what_a_member_tells_of_a_topic_before_it_became_raw_is_in_no_account() -> None:
    ledger = Ledger({1})
    ledger.tickets = tickets_of({2: [40]})
    ledger.forgot(1)
    ledger.opened(1, 2, [("g", [A])], 0)
    ledger.report(1, "g", A, 1, 70, full=True)
    ledger.report(1, "g", A, 0, 40, full=True)
    account = look(ledger, [40], 40)
    assert account.balanced, account
    assert [(each.delivered, each.unconfirmed) for each in account.groups] == [(40, 0)]


@pytest.mark.parametrize("stamped", [True, False])
@pytest.mark.parametrize("lost", [0, 5])
def test_who_moves_tells_one_count_for_both_places_and_each_counts_once(stamped: bool, lost: int) -> None:
    """As the control server books it: of 50 at the one place some are lost, then come 40 at the other."""
    ledger, epoch = Ledger(() if stamped else {1}), 2 if stamped else 0
    drawn = {1: [50]}
    ledger.tickets = lambda topic, epoch, group: tickets_of(drawn)(topic, epoch, group)
    ledger.opened(1, 1, [("g", [A])], 0)
    ledger.report(1, "g", A, min(epoch, 1), 30, full=True)
    ledger.report_dropped(1, "g", A, 20)
    ledger.opened(1, 2, [("g", [B])], 0)
    ledger.closed(1, 1, [50])
    got = 50 - lost

    def tells(came: int, dropped: int) -> None:
        drawn[2] = [came]
        rows = [(1, got), (2, came)] if stamped else [(0, got + came)]
        for of, count in rows:
            ledger.report_former(1, ("g", A), ("g", B), of, count, full=True)
        for of, count in rows:
            ledger.report(1, "g", B, of, count, full=True)
        ledger.report_dropped(1, "g", B, dropped)

    # The first time a little has come to where it is by now, and again, for the answer was lost.
    for came in (3, 10, 40):
        tells(came, 20 + came // 10)
    account = look(ledger, [40], 90)
    assert account.balanced, account
    (group,) = account.groups
    assert (group.delivered + group.dropped, group.dropped) == (90 - lost, 24)
    assert group.unconfirmed + group.lost == lost
    (now,) = ledger.accounts(B)
    assert now.drops == 4, "what was dropped before is in the former account"
    assert ledger.accounts(A)[0].drops == 20


def test_members_of_a_raw_topic_that_are_remembered_no_more_come_back_and_the_account_adds_up() -> None:
    """They tell one total since they began; what of it was settled long ago is not theirs a second time."""
    many = [Holder("10.0.2.2", port, 1) for port in range(5000, 5000 + 2 * SETTLED_KEPT)]
    ledger = Ledger({1})
    live = {1: [len(many) * 3]}
    ledger.tickets = lambda topic, epoch, group: tickets_of(live)(topic, epoch, group)
    ledger.opened(1, 1, [("g", many)], 0)
    for each in many:
        ledger.report(1, "g", each, 0, 3)
    ledger.opened(1, 2, [], 1)
    ledger.closed(1, 1, live[1])
    ledger.settle(2)
    live = {3: [len(many) * 5]}
    ledger.opened(1, 3, [("g", many)], 3)
    for each in many:
        ledger.report(1, "g", each, 0, 3 + 4)
    for each in many[:3]:
        ledger.report(1, "g", each, 0, 3 + 5)
    total = len(many) * (3 + 5)
    account = ledger.topic(1, live=live, received=total, fast=0, slow=total, refused={})
    assert account.balanced, account.problems
    (group,) = account.groups
    assert group.tickets == total
    # Of who is remembered it is known to the event; of the others, no more than was sent since.
    assert group.delivered + group.unconfirmed == total
    assert 0 < group.unconfirmed <= len(many) - 3


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_what_a_member_of_a_raw_topic_tells_late_of_an_account_that_ended_is_not_too_many(
    is_made_anew: bool,
) -> None:
    """Its lease ended while nobody heard it; what it had got till then it tells when it is back."""
    ledger = Ledger({1})
    live = {1: [10]}
    ledger.tickets = lambda topic, epoch, group: tickets_of(live)(topic, epoch, group)
    ledger.opened(1, 1, [("g", [A, B])], 0)
    ledger.report(1, "g", A, 0, 2)
    ledger.report(1, "g", B, 0, 5)
    ledger.opened(1, 2, [("g", [B])], 1)
    ledger.closed(1, 1, live[1])
    if is_made_anew:
        ledger.forget(1, "raw")
        ledger.begin(1, "raw", stamped=False)
    else:
        ledger.settle(2)
    live = {3: [8]}
    ledger.opened(1, 3, [("g", [A, B])], 3)
    if not is_made_anew:
        ledger.closed(1, 2, [0])
    # Three of the former ones, and two of its four.
    ledger.report(1, "g", A, 0, 5 + 2)
    ledger.report(1, "g", B, 0, 5 + 4)
    total = 8 if is_made_anew else 18
    account = ledger.topic(1, live=live, received=total, fast=0, slow=total, refused={})
    assert account.balanced, account.problems
    (group,) = account.groups
    assert (group.tickets, group.lost) == (total, 0 if is_made_anew else 3)
    ledger.report(1, "g", A, 0, 5 + 4)
    (group,) = ledger.topic(1, live=live, received=total, fast=0, slow=total, refused={}).groups
    assert group.delivered + group.lost + group.unconfirmed == total


def test_copies_known_not_to_be_sent_stay_with_their_group() -> None:
    ledger = Ledger()
    ledger.opened(1, 1, [("g", [A]), ("~", [BARE])], 0)
    ledger.report(1, "g", A, 1, 5)
    facts = {"received": 7, "fast": 7, "slow": 0, "refused": {}}
    account = ledger.topic(1, live={1: [7, 7]}, unsent={1: [2, 1]}, **facts)
    assert [(row.unsent, row.unconfirmed, row.unknown) for row in account.groups] == [(2, 2, 0), (1, 0, 7)]
    assert account.balanced
    ledger.opened(1, 2, [("~", [BARE]), ("h", [B])], 0)
    ledger.closed(1, 1, [7, 7], [2, 1])
    again = Ledger()
    again.restore(1, ledger.export(1), 0)
    account = again.topic(1, live={2: [0, 0]}, unsent={2: [4, 0]}, **facts)
    assert {row.name: row.unsent for row in account.groups} == {"g": 2, "~": 5, "h": 0}


def test_what_a_member_that_left_never_reported_is_lost_and_stays_in_the_account() -> None:
    ledger = Ledger()
    ledger.opened(1, 1, [("g", [A])], 0)
    ledger.report(1, "g", A, 1, 3)
    ledger.opened(1, 2, [], 0)
    ledger.closed(1, 1, [5])
    (group,) = look(ledger, [], 5).groups
    assert (group.delivered, group.lost) == (3, 2)
    assert [(row.lost, row.unconfirmed, row.left) for row in group.members] == [(2, 0, True)]
    ledger.settle(0)
    ledger.report(1, "g", A, 1, 5)
    (group,) = look(ledger, [], 5).groups
    assert (group.tickets, group.delivered, group.lost) == (5, 3, 2)


def test_since_when_a_group_loses_nothing_that_nobody_is_in_any_more_is_known_in_the_next_life_too() -> None:
    ledger = Ledger()
    ledger.wall = lambda: 1000.0
    ledger.opened(1, 1, [("g", [A]), ("h", [B])], 0)
    ledger.opened(1, 2, [("h", [B])], 1)
    ledger.closed(1, 1, [5, 5])
    ledger.report(1, "h", B, 1, 5)
    assert [row.lost_at for row in look(ledger, [0], 5).groups] == [0, 0], "A may still tell"
    ledger.settle(1)
    assert {row.name: row.lost_at for row in look(ledger, [0], 5).groups} == {"h": 0, "~": 1000}
    ledger.wall = lambda: 2000.0
    ledger.opened(1, 3, [], 2)
    ledger.closed(1, 2, [0])
    ledger.settle(2)
    assert [(row.lost, row.lost_at) for row in look(ledger, [], 5).groups] == [(5, 1000)], "h lost nothing"
    exported = ledger.export(1)
    for told, lost_at in ((True, 1000), (False, 3000)):
        again = Ledger()
        again.wall = lambda: 3000.0
        if not told:
            del exported["groups"][0]["lost_at"]
        again.restore(1, exported, 0)
        assert [row.lost_at for row in look(again, [], 5).groups] == [lost_at]


def test_a_raw_topic_is_accounted_by_totals_over_epochs_leaving_and_returning() -> None:
    ledger = Ledger(unstamped=[1])
    ledger.opened(1, 1, [("g", [A, B])], 0)
    ledger.opened(1, 2, [("g", [A])], 0)
    ledger.closed(1, 1, [4])
    ledger.report(1, "g", A, 0, 5)
    (group,) = look(ledger, [3], 7).groups
    assert (group.delivered, group.unconfirmed, group.lost) == (5, 0, 2)
    ledger.report(1, "g", B, 0, 2)
    ledger.opened(1, 3, [], 0)
    ledger.closed(1, 2, [3])
    ledger.settle(0)
    ledger.opened(1, 4, [("g", [A])], 0)
    ledger.closed(1, 3, [])
    ledger.report(1, "g", A, 0, 6)
    account = look(ledger, [2], 9)
    (group,) = account.groups
    assert (group.tickets, group.delivered, group.unconfirmed, group.lost) == (9, 8, 1, 0)
    assert account.balanced
    ledger.report(1, "g", A, 0, 8)
    assert look(ledger, [2], 9).problems == ("group g: 10.0.2.2:5001 got 1 too many",)


def test_an_epoch_cut_by_the_brokers_death_takes_no_more_than_was_counted() -> None:
    ledger = Ledger()
    ledger.opened(1, 1, [("g", [A])], 0)
    ledger.report(1, "g", A, 1, 7)
    ledger.opened(1, 2, [("g", [A])], 0)
    ledger.closed(1, 1, [5], cut=True)
    ledger.report(1, "g", A, 1, 9)
    account = look(ledger, [0], 5)
    assert account.balanced
    assert [(group.tickets, group.delivered, group.unconfirmed) for group in account.groups] == [(5, 5, 0)]


def test_imbalances_are_told_in_words() -> None:
    ledger = Ledger()
    ledger.opened(1, 1, [("g", [A]), ("h", [B])], 0)
    ledger.opened(1, 2, [], 0)
    ledger.closed(1, 1, [5, 4])
    ledger.report(1, "g", A, 1, 6)
    account = ledger.topic(1, live={}, received=9, fast=1, slow=3, refused={Reason.QUEUE_FULL: 4})
    assert not account.balanced
    assert [text.split()[0] for text in account.problems] == ["in", "received", "4", "group"]
    assert "got 1 too many" in account.problems[-1]


def test_reports_of_wrapped_epochs_reach_the_right_one() -> None:
    ledger = Ledger()
    for epoch in range(1, 600):
        ledger.opened(1, epoch, [("g", [A])], 0)
        if epoch > 1:
            ledger.closed(1, epoch - 1, [1])
        ledger.report(1, "g", A, epoch & 0xFF, 1)
    (group,) = look(ledger, [1], 599).groups
    assert (group.delivered, group.unconfirmed, group.lost) == (599, 0, 0)
    (account,) = ledger.accounts(A)
    assert len(account.shares) <= EPOCHS_KEPT
    assert account.outstanding == 0


@pytest.mark.parametrize("full", [True, False])
def test_who_got_nothing_for_256_epochs_is_not_booked_what_it_got_before(full: bool) -> None:
    ledger = Ledger()
    ledger.opened(1, 5, [("g", [A, B])], 0)
    for _ in range(3):
        ledger.report(1, "g", A, 5, 100, full=full)
        ledger.report(1, "g", B, 5, 100, full=full)
    for epoch in range(6, 262):
        ledger.opened(1, epoch, [("g", [A, B])], 0)
        ledger.closed(1, epoch - 1, [200 if epoch == 6 else 0])
        ledger.report(1, "g", A, 5, 100, full=full)
    account = look(ledger, [0], 200)
    assert account.balanced
    assert [group.delivered for group in account.groups] == [200]
    # Whatever it gets of an epoch with the same last 8 bits is news again.
    ledger.report(1, "g", A, 261 if full else 5, 7, full=full)
    account = look(ledger, [14], 214)
    assert account.balanced
    assert [(group.delivered, group.unconfirmed) for group in account.groups] == [(207, 7)]
    # A claim about an epoch that is long over, or never was, counts nowhere.
    for epoch in (5, 4, 262, 10**6):
        ledger.report(1, "g", A, epoch, 10**9, full=True)
    assert look(ledger, [14], 214) == account


@given(st.integers(0, 2**32))
def test_any_history_adds_up(seed: int) -> None:
    """A model: events go round robin, some get lost, members come and go, reports are late or old."""
    rng = random.Random(seed)
    ledger = Ledger()
    got: dict[tuple[Holder, int], int] = {}
    members: list[Holder] = []
    forwarded = epoch = 0
    drawn = 0
    for _ in range(rng.randrange(1, 40)):
        before = list(members)
        if members and rng.random() < 0.4:
            members.remove(rng.choice(members))
        else:
            members += [each for each in (A, B, C) if each not in members][:1]
        ledger.opened(1, epoch + 1, [("g", members)] if members else [], 0)
        if epoch:
            ledger.closed(1, epoch, [drawn] if before else [])
        epoch, drawn = epoch + 1, 0
        for _ in range(rng.randrange(12) if members else 0):
            holder = members[drawn % len(members)]
            drawn += 1
            forwarded += 1
            if rng.random() < 0.9:
                got[holder, epoch] = got.get((holder, epoch), 0) + 1
        for (holder, when), count in got.items():
            if rng.random() < 0.5:
                ledger.report(1, "g", holder, when, rng.randint(0, count), full=True)
                if rng.random() < 0.5:
                    ledger.report(1, "g", holder, when & 0xFF, rng.randint(0, count))
        if rng.random() < 0.1:
            ledger.settle(0)
        if rng.random() < 0.1:
            stored = json.dumps(ledger.export(1))
            ledger = Ledger()
            ledger.restore(1, json.loads(stored), 0)
            assert json.dumps(ledger.export(1)) == stored
        account = look(ledger, [drawn] if members else [], forwarded)
        assert account.balanced, account.problems
        for group in account.groups:
            assert group.tickets == group.delivered + group.unconfirmed + group.lost + group.unknown
            assert min(group.delivered, group.unconfirmed, group.lost) >= 0
    assert sum(group.tickets for group in account.groups) == forwarded


def test_a_topic_without_events_is_told_as_if_all_of_it_were_counted() -> None:
    ledger = Ledger()
    ledger.opened(1, 4, [("g", [A, B]), ("h", [Holder("10.0.2.9", 9998, None)])], 0)
    facts: dict[str, Any] = {
        "received": 2,
        "fast": 0,
        "slow": 1,
        "refused": {Reason.NO_MEMBER: 2},
        "slack": 0,
    }
    quiet = ledger.topic(1, live={4: [0, 0]}, **facts)
    assert quiet.problems
    assert [member.holder for member in quiet.groups[0].members] == [A, B]
    # Whoever drew a ticket makes it another account.
    assert ledger.topic(1, live={4: [1, 1]}, **facts).groups[0].tickets == 1
    ledger._whole(1)
    assert ledger.topic(1, live={4: [0, 0]}, **facts) == quiet


def test_who_was_a_member_of_a_topic_before_it_began_anew_has_not_got_too_many() -> None:
    """One total since it began is all that a member of a raw topic tells."""
    ledger, drawn = Ledger((1,)), {7: [0]}
    ledger.tickets = tickets_of(drawn)
    ledger.forgot(1)
    ledger.opened(1, 7, [("g", [A])], 0)
    for told, tickets in ((63, 0), (68, 5)):
        drawn[7] = [tickets]
        ledger.report(1, "g", A, 0, told)
        account = ledger.topic(1, live=drawn, received=tickets, fast=0, slow=tickets, refused={})
        assert account.balanced, account.problems
        assert account.groups[0].delivered == tickets
    # What is stored of it says so, too.
    again = Ledger((1,))
    again.restore(1, json.loads(json.dumps(ledger.export(1))), 0)
    assert again.export(1) == ledger.export(1)


def _delivered_and_dropped(ledger: Ledger, drawn: dict[int, list[int]]) -> tuple[int, int]:
    tickets = sum(each[0] for each in drawn.values())
    account = ledger.topic(1, live=drawn, received=tickets, fast=0, slow=tickets, refused={})
    assert account.balanced, account.problems
    groups = [each for each in account.groups if each.name == "g"]
    return sum(each.delivered for each in groups), sum(each.dropped for each in groups)


@pytest.mark.parametrize("stamped", [True, False])
@pytest.mark.parametrize("kept", [True, False], ids=["this life", "another life"])
def test_what_was_told_of_a_topic_that_is_made_anew_is_not_told_of_the_new_one(
    stamped: bool, kept: bool
) -> None:
    """To its members it is the same topic, of which they go on telling totals."""
    ledger, drawn = Ledger(() if stamped else (1,)), {7: [100]}
    ledger.tickets = tickets_of(drawn)
    ledger.opened(1, 7, [("g", [A])], 0)
    ledger.report(1, "g", A, 7 if stamped else 0, 100, full=True)
    ledger.report_dropped(1, "g", A, 90)
    assert _delivered_and_dropped(ledger, drawn) == (10, 90)
    ledger.closed(1, 7, [100])
    if kept:
        ledger.forget(1, "events")
    else:
        ledger = Ledger(() if stamped else (1,))
        ledger.tickets = tickets_of(drawn)
    ledger.forgot(1)
    ledger.begin(1, "events", stamped=stamped)
    drawn.clear()
    drawn[9] = [0]
    ledger.opened(1, 9, [("g", [A])], 0)
    # What happened before its first word counts as of the new one only where the old word is remembered.
    first = 50 if kept else 0
    for tickets, drops in ((first, 90), (60, 95)):
        drawn[9] = [tickets]
        ledger.report(1, "g", A, 9 if stamped else 0, tickets + (0 if stamped else 100), full=True)
        ledger.report_dropped(1, "g", A, drops)
        assert _delivered_and_dropped(ledger, drawn) == (tickets - (drops - 90), drops - 90)
    again = Ledger(() if stamped else (1,))
    again.restore(1, json.loads(json.dumps(ledger.export(1))), 0)
    assert again.export(1) == ledger.export(1)


def test_another_topic_of_the_same_id_begins_at_nothing() -> None:
    ledger, drawn = Ledger(), {7: [100]}
    ledger.opened(1, 7, [("g", [A])], 0)
    ledger.report(1, "g", A, 7, 100, full=True)
    ledger.report_dropped(1, "g", A, 90)
    ledger.closed(1, 7, [100])
    ledger.forget(1, "events")
    ledger.forgot(1)
    ledger.begin(1, "others", stamped=True)
    drawn = {9: [20]}
    ledger.opened(1, 9, [("g", [A])], 0)
    ledger.report(1, "g", A, 9, 20, full=True)
    ledger.report_dropped(1, "g", A, 5)
    assert _delivered_and_dropped(ledger, drawn) == (15, 5)


def test_drops_of_who_is_remembered_no_more_are_not_told_of_what_comes_then() -> None:
    ledger, drawn = Ledger(), {7: [1000]}
    crowd = [Holder("10.0.2.2", 6000 + n, 1) for n in range(SETTLED_KEPT + 10)]
    ledger.opened(1, 7, [("g", crowd)], 0)
    for each in crowd:
        ledger.report(1, "g", each, 7, share(1000, crowd.index(each), len(crowd)), full=True)
        ledger.report_dropped(1, "g", each, 10)
    before = _delivered_and_dropped(ledger, drawn)
    ledger.opened(1, 8, [], 1)
    ledger.closed(1, 7, [1000])
    ledger.settle(2)
    ledger.opened(1, 9, [("g", crowd)], 3)
    ledger.closed(1, 8, [])
    for each in crowd:
        ledger.report_dropped(1, "g", each, 10)
        ledger.report(1, "g", each, 9, 1, full=True)
        ledger.report_dropped(1, "g", each, 10)
    drawn = {9: [len(crowd)]}
    sent = 1000 + len(crowd)
    account = ledger.topic(1, live=drawn, received=sent, fast=0, slow=sent, refused={})
    assert account.balanced, account.problems
    assert sum(each.dropped for each in account.groups) == before[1]
    assert sum(each.delivered for each in account.groups) == before[0] + len(crowd)


def test_what_a_member_of_a_large_group_was_ticketed_follows_every_change_of_the_route() -> None:
    """Asked at each heartbeat, of every member, while epochs open and close and a topic is made anew."""
    many = [Holder("10.0.2.2", port, 1) for port in range(6000, 6040)]
    drawn = {1: [0, 410], 2: [7, 79]}
    ledger = Ledger()
    ledger.tickets = tickets_of(drawn)
    ledger.opened(1, 1, [("few", [A]), ("many", many)], 0)
    whole = {each: share(410, index, 40) for index, each in enumerate(many)}
    assert {each: ledger.progress(each, [(1, "many")])[0] for each in many} == whole
    # The first leaves, the others move up.
    ledger.opened(1, 2, [("few", [A]), ("many", many[1:])], 1)
    for closed in (False, True):
        if closed:
            ledger.closed(1, 1, drawn.pop(1))
        assert ledger.progress(many[0], [(1, "many")])[0] == whole[many[0]]
        for index, each in enumerate(many[1:]):
            assert ledger.progress(each, [(1, "many")])[0] == whole[each] + share(79, index, 39)
        assert ledger.progress(A, [(1, "few"), (1, "many")])[0] == 7
    ledger.forget(1, "name")
    ledger.opened(1, 2, [("many", many[::-1])], 2)
    drawn[2] = [1]
    assert [ledger.progress(each, [(1, "many")])[0] for each in (many[-1], many[0])] == [1, 0]
