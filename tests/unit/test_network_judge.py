"""The judge of network cases finds what one account says and another does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from networks.judge import Right, judge, judge_waiting
from networks.network import Dropped
from networks.play import EVENTS, Heard, Played
from networks.row import Row

from tempos.subscriber import Drained, PublisherAccount, SubscriberStats
from tempos_bench.measure.broker import GroupStatus, LostBefore, TopicStatus

FAST = ("fast",)
STATS = SubscriberStats(EVENTS, EVENTS, 0, 0, 0, 0, 0, {}, 0, 0, 0, 0, 0)
PUBLISHER = PublisherAccount("t", 7, EVENTS, EVENTS, 0, EVENTS, 0, 0)


def played(*, before: int = 0, behind: int = 0) -> Played:
    """What is right where so many of the events were lost on either leg."""
    received, got = EVENTS - before, EVENTS - before - behind
    heard = Heard(
        numbers=tuple(range(got)),
        broken=0,
        deliveries=got,
        stats=replace(STATS, datagrams=got, events=got, missed=behind),
        drained=Drained(received, got, behind),
        publishers=(replace(PUBLISHER, datagrams=got, events=got, at_least=before, at_most=before),),
    )
    status = TopicStatus(
        name="t", path="fast", reason="XDP native", received=received, fast=received, slow=0, refused={},
        passed={}, groups=(GroupStatus("g0", received, got, 0, 0, behind, 0),), problems=(),
        before=LostBefore(EVENTS, before, before, settled=True),
    )  # fmt: skip
    return Played((heard,), status, "fast", "XDP native")


def told(before: LostBefore) -> Callable[[Played], Played]:
    return lambda right: replace(right, status=replace(right.status, before=before))


def member_told(least: int, most: int | None) -> Callable[[Played], Played]:
    def change(right: Played) -> Played:
        (heard,) = right.heard
        account = replace(heard.publishers[0], at_least=least, at_most=most)
        return replace(right, heard=(replace(heard, publishers=(account,)),))

    return change


def silent(right: Played) -> Played:
    """An event of which every account says that it arrived, and it did not."""
    (heard,) = right.heard
    return replace(
        right, heard=(replace(heard, numbers=heard.numbers[:-1], deliveries=heard.deliveries - 1),)
    )


@pytest.mark.parametrize(("before", "behind"), [(0, 0), (9, 0), (0, 12)])
def test_losses_that_every_account_tells_are_right(before: int, behind: int) -> None:
    row = Row("case", "native")
    judge(row, played(before=before, behind=behind), Right.TOLD, FAST)
    assert (row.verdict, row.arrived) == ("right", EVENTS - before - behind)
    assert ("9 lost before the broker" in row.ledger) is bool(before)
    assert row.ledger.startswith("12 lost" if behind else "all delivered")


def test_the_slow_path_of_a_topic_on_the_fast_one_has_a_reason() -> None:
    right = played()
    slow = replace(right, status=replace(right.status, path="slow", fast=0, slow=EVENTS))
    row = Row("case", "native")
    with pytest.raises(AssertionError, match=r"which does not say why: XDP native\n"):
        judge(row, slow, Right.ALL, ("slow",))
    with pytest.raises(AssertionError, match=r"which does not say why: XDP native\n"):
        judge(row, replace(slow, passed={"vlan": EVENTS // 2}), Right.ALL, ("slow",))
    judge(row, replace(slow, passed={"vlan": EVENTS, "for_bridge": 1}), Right.ALL, ("slow",))
    assert row.reason == f"XDP native; left to the slow path: {EVENTS} vlan"
    judge(
        row,
        replace(slow, reason="... what comes in by these takes the slow path: eth2"),
        Right.ALL,
        ("slow",),
    )
    judge(row, replace(slow, path="slow", reason="the topic's policy is slow"), Right.ALL, ("slow",))
    judge(row, right, Right.ALL, FAST)
    assert row.reason == "XDP native"


def test_what_comes_by_two_links_is_one_event() -> None:
    right = played()
    judge(Row("case", "native"), right, Right.ONCE, FAST)
    (heard,), (group,) = right.heard, right.status.groups
    twice = replace(
        right,
        heard=(replace(heard, deliveries=2 * EVENTS, drained=Drained(2 * EVENTS, 2 * EVENTS, 0)),),
        status=replace(
            right.status, received=2 * EVENTS, fast=2 * EVENTS,
            groups=(replace(group, tickets=2 * EVENTS, delivered=2 * EVENTS),),
        ),
    )  # fmt: skip
    judge(Row("case", "native"), twice, Right.ALL, FAST)
    with pytest.raises(AssertionError, match=f"{2 * EVENTS} were received, of {EVENTS} events"):
        judge(Row("case", "native"), twice, Right.ONCE, FAST)
    with pytest.raises(AssertionError, match=f"{EVENTS - 1} of {EVENTS} arrived"):
        judge(Row("case", "native"), silent(right), Right.ONCE, FAST)


def test_what_a_queue_on_the_way_out_drops_is_told_by_its_name_and_to_the_event() -> None:
    row = Row("case", "off")
    lost = played(before=0, behind=12)
    judge(row, replace(lost, dropped=Dropped({"etf": 9}, 12)), Right.TOLD, FAST)
    assert row.ledger.endswith("; etf dropped 9 packets with 12 events")
    for events in (11, 13):
        with pytest.raises(AssertionError, match=f"12 missed, and the queues dropped {events}"):
            judge(row, replace(lost, dropped=Dropped({"etf": 9}, events)), Right.TOLD, FAST)
    with pytest.raises(AssertionError, match="12 events came through no queue, and none says"):
        judge(row, replace(lost, dropped=Dropped({}, 12)), Right.TOLD, FAST)
    judge(row, replace(played(), dropped=Dropped({}, 0)), Right.TOLD, FAST)
    assert row.ledger == "all delivered"


def test_what_a_network_doubles_before_the_broker_is_delivered_twice() -> None:
    """The member knows it for the same; a ticket and a delivery of its own it has all the same."""
    right, more = played(), 11
    (heard,), (group,) = right.heard, right.status.groups
    heard = replace(
        heard, numbers=heard.numbers + heard.numbers[:more], deliveries=EVENTS + more,
        stats=replace(heard.stats, duplicates=more), drained=Drained(EVENTS + more, EVENTS + more, 0),
    )  # fmt: skip
    group = replace(group, tickets=EVENTS + more, delivered=EVENTS + more)
    status = replace(right.status, received=EVENTS + more, fast=EVENTS + more, groups=(group,))
    row = Row("case", "native")
    judge(row, Played((heard,), status, "fast", right.reason), Right.ALL, FAST)
    assert (row.arrived, row.client) == (EVENTS, "11 duplicates")
    with pytest.raises(AssertionError, match="delivered: ledger 211, drain 211, seen 200"):
        judge(
            row, Played((replace(heard, deliveries=EVENTS),), status, "fast", right.reason), Right.ALL, FAST
        )


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (silent, "delivered: ledger 191, drain 191, seen 190; .*10 were lost before the broker, ledger: 9"),
        (told(LostBefore(EVENTS, 8, 8, settled=True)), "9 were lost before the broker, ledger: 8 to 8"),
        (told(LostBefore(EVENTS, 0, 9, settled=True)), "0 to 9 lost before the broker, not 9"),
        (told(LostBefore(EVENTS, 9, None, settled=True)), "9 to None lost before the broker, not 9"),
        (told(LostBefore(EVENTS, 9, 9, settled=False)), "does not come to the publisher's last word"),
        (told(LostBefore(EVENTS - 1, 9, 9, settled=True)), f"{EVENTS} were sent, ledger: {EVENTS - 1}"),
        (member_told(10, None), "9 were lost before the broker, member: 10 to None"),
    ],
)  # fmt: skip
def test_a_loss_before_the_broker_that_is_told_wrongly_is_found(
    change: Callable[[Played], Played], fault: str
) -> None:
    row = Row("case", "native")
    with pytest.raises(AssertionError, match=fault):
        judge(row, change(played(before=9)), Right.TOLD, FAST)
    assert row.verdict == "wrong"


def test_who_could_not_ask_the_broker_need_not_be_known_to_the_end() -> None:
    row = Row("case", "native")
    judge(row, told(LostBefore(EVENTS, 0, None, settled=False))(played()), Right.ALL, FAST, blind=True)
    with pytest.raises(AssertionError, match="ledger: 1 to None"):
        judge(row, told(LostBefore(EVENTS, 1, None, settled=False))(played()), Right.ALL, FAST, blind=True)


def test_a_broker_that_waits_says_what_may_be_the_matter() -> None:
    said = "ready: ebpf; waits for address 10.0.2.1\nWARNING address 10.0.2.1 is not here; (one in a VRF)"
    row = Row("case", "off")
    judge_waiting(row, said, "VRF")
    assert (row.verdict, row.path, row.reason) == (
        "right", "waits", "address 10.0.2.1 is not here; (one in a VRF)",
    )  # fmt: skip
    for silent, path in (("ready: ebpf", "started"), (said.replace("VRF", "?"), "waits")):
        with pytest.raises(AssertionError, match="nothing about VRF"):
            judge_waiting(row, silent, "VRF")
        assert (row.verdict, row.path) == ("wrong", path)
