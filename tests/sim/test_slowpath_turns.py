"""Whose turn it is: SQ before BQ at every step, BQ's share while SQ waits, and an end to every turn."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.channels import MemoryChannels, Payloads, Sent

from tempos import Group, Member, Quality, Route, Topic
from tempos_broker.paths import LocalTickets
from tempos_broker.slowpath.core import SlowPath
from tempos_broker.slowpath.turns import ROUNDS, Turns

SQ, BQ = Quality.SQ, Quality.BQ
STRICT, LESS_STRICT, BEST, LESS_BEST = TOPICS = (
    Topic(1, "brake", SQ, 7),
    Topic(2, "speed", SQ, 0),
    Topic(10, "video", BQ, 5),
    Topic(11, "logs", BQ, 0),
)
BATCH, CHUNK = 16, 4
#: What one turn may do at most: its budget, and what its last step adds.
MOST_WORK = 2 * ROUNDS * BATCH


class Scene:
    """A core with a route for each topic, channels in memory, and turns."""

    def __init__(self, share: int = 0, *, apart: bool = True, groups: tuple[int, ...] = (1, 1, 1, 1)) -> None:
        self.core: SlowPath[Payloads] = SlowPath(TOPICS, LocalTickets(), 10_000, 10_000)
        classes = {topic.id: topic.quality for topic in TOPICS}
        self.channels = MemoryChannels(self.core, classes, apart=apart)
        self.turns = Turns(self.core, self.channels, BATCH, share, CHUNK, CHUNK)
        for topic, count in zip(TOPICS, groups, strict=True):
            all_groups = tuple(Group(f"g{index}", (Member("10.0.0.1", 1),)) for index in range(count))
            self.core.swap(Route(topic, 1, all_groups))
        self.serial = 0

    def arrive(self, topic: Topic, count: int = 1) -> None:
        for _ in range(count):
            self.channels.arrive(bytes((topic.id,)) + self.serial.to_bytes(4, "big"))
            self.serial += 1

    def copies(self, quality: Quality) -> int:
        return sum(each.copies for each in self.channels.sent if each.quality is quality)


@settings(deadline=None, max_examples=50)
@given(share=st.integers(0, 50), groups=st.tuples(*[st.integers(1, 5)] * 4), apart=st.booleans())
def test_while_strict_events_wait_best_effort_gets_its_share_and_no_more(
    share: int, groups: tuple[int, ...], apart: bool
) -> None:
    scene = Scene(share, groups=groups, apart=apart)
    most = max(groups)
    if apart:
        # Neither runs dry, whatever is taken.
        def refill(what: str, quality: Quality) -> None:
            topics = TOPICS[:2] if quality is SQ else TOPICS[2:]
            while len(scene.channels.incoming[quality]) < 4 * BATCH:
                for topic in topics:
                    scene.arrive(topic, BATCH)

        scene.channels.after = refill
        for quality in Quality:
            refill("", quality)
        for _ in range(6):
            assert scene.turns.turn(), "there is always more to do"
    else:
        for topic in TOPICS:
            count = 100 if topic.quality is SQ else 1000
            scene.core.arrived(topic.id, count, Payloads([bytes((topic.id,))] * count))
        scene.turns.turn()
    sent = scene.channels.sent
    if not apart:
        # Behind the last strict event the rest is best effort's.
        last = max(at for at, each in enumerate(sent) if each.quality is SQ)
        sent = sent[: last + 1]
    strict = sum(each.copies for each in sent if each.quality is SQ)
    best = sum(each.copies for each in sent if each.quality is BQ)
    by_right = strict * share / (100 - share)
    # Behind by what the last piece earned, and by part of a copy.
    assert by_right - max(CHUNK, most) - 1 <= best <= by_right + most
    if not share:
        assert best == 0
    for run in runs(sent):
        if run[0].quality is BQ:
            earned = most * share // (100 - share) + 1
            assert sum(each.copies for each in run) <= max(CHUNK, earned) + 1 + most


def runs(sent: list[Sent]) -> list[list[Sent]]:
    """What was sent in a row of one class."""
    found: list[list[Sent]] = [sent[:1]]
    for before, each in pairwise(sent):
        if each.quality is before.quality:
            found[-1].append(each)
        else:
            found.append([each])
    return found


@settings(deadline=None, max_examples=100)
@given(
    arrivals=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    flood=st.integers(50, 400),
    groups=st.tuples(*[st.integers(1, 3)] * 4),
)
def test_a_strict_event_waits_for_one_step_of_best_effort_at_most(
    arrivals: list[int], flood: int, groups: tuple[int, ...]
) -> None:
    """Strict events arrive during steps of best effort; what comes next is always theirs."""
    scene = Scene(groups=groups)
    log, left = scene.channels.log, list(arrivals)

    def during(what: str, quality: Quality) -> None:
        if quality is BQ and left:
            left[0] -= 1
            if not left[0]:
                left.pop(0)
                scene.arrive(STRICT)
                log.append(("arrive", SQ, 1))

    scene.channels.after = during
    scene.arrive(BEST, flood)
    scene.arrive(LESS_BEST, flood)
    while scene.turns.turn():
        pass
    for index, (what, quality, count) in enumerate(log):
        if what == "arrive":
            assert [step[:2] for step in log[index + 1 : index + 3]] == [("receive", SQ), ("send", SQ)]
        elif quality is BQ:
            assert count <= CHUNK
    assert scene.copies(BQ) == flood * (groups[2] + groups[3])
    assert scene.turns.idle


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("topic", [STRICT, BEST])
def test_a_turn_ends_however_much_there_is(topic: Topic, apart: bool) -> None:
    scene = Scene(apart=apart)
    scene.arrive(topic, 5000)
    scene.arrive(LESS_BEST, 5000)
    before = 0
    turns = 1
    while scene.turns.turn():
        turns += 1
        done = sum(count for _, _, count in scene.channels.log)
        # One step of what reading ahead brings is not cut short.
        assert done - before <= MOST_WORK + 10 * BATCH
        before = done
    assert turns > 10
    assert sum(each.copies for each in scene.channels.sent) == 10_000


def test_best_effort_that_is_held_up_holds_up_nobody() -> None:
    scene = Scene()
    scene.arrive(BEST, 3 * CHUNK)
    scene.arrive(STRICT, 2)
    scene.channels.full.add(BQ)
    assert not scene.turns.turn()
    assert (scene.copies(SQ), scene.copies(BQ)) == (2, 0)
    scene.arrive(STRICT, 2)
    assert not scene.turns.turn()
    assert scene.copies(SQ) == 4
    assert not scene.turns.idle
    scene.channels.full.clear()
    while scene.turns.turn():
        pass
    assert scene.copies(BQ) == 3 * CHUNK
    assert scene.turns.idle


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("full", [{SQ}, {BQ}, {SQ, BQ}])
def test_while_a_channel_is_full_what_arrives_is_read_all_the_same(full: set[Quality], apart: bool) -> None:
    """A channel with something in it wakes the next turn: one that reads nothing would be taken for ever."""
    scene = Scene(apart=apart)
    scene.channels.full |= full
    for topic in TOPICS:
        scene.arrive(topic, 300)
    incoming = scene.channels.incoming
    while left := sum(map(len, incoming.values())):
        scene.turns.turn()
        assert sum(map(len, incoming.values())) < left
    scene.channels.full.clear()
    while scene.turns.turn():
        pass
    assert (scene.copies(SQ), scene.copies(BQ)) == (600, 600)
    assert scene.turns.idle


def test_strict_events_that_are_held_up_are_not_overtaken() -> None:
    scene = Scene()
    scene.channels.full.add(SQ)
    scene.arrive(STRICT, 2)
    scene.arrive(BEST, 2)
    assert not scene.turns.turn()
    assert not scene.channels.sent
    scene.channels.full.clear()
    while scene.turns.turn():
        pass
    assert [each.quality for each in scene.channels.sent] == [SQ, BQ]


@pytest.mark.parametrize("beside", [True, False])
def test_a_worker_on_the_same_cpu_waits_for_one_step_at_most(beside: bool) -> None:
    scene = Scene()
    scene.turns.strict_here = False
    scene.turns.strict_beside = beside
    scene.arrive(BEST, 4 * BATCH)
    while scene.turns.turn():
        pass
    assert max(count for _, _, count in scene.channels.log) == (CHUNK if beside else BATCH)
    assert scene.copies(BQ) == 4 * BATCH


def test_without_a_member_for_strict_events_best_effort_goes_in_whole_batches() -> None:
    scene = Scene(groups=(0, 0, 1, 1))
    scene.arrive(BEST, 4 * BATCH)
    while scene.turns.turn():
        pass
    assert {count for what, quality, count in scene.channels.log if what == "send"} == {BATCH}


@given(share=st.integers(1, 50), pause=st.integers(1, 200))
def test_what_best_effort_did_not_need_it_cannot_save_up(share: int, pause: int) -> None:
    scene = Scene(share)
    scene.arrive(STRICT, pause)
    while scene.turns.turn():
        pass
    scene.channels.sent.clear()
    scene.arrive(STRICT, BATCH)
    scene.arrive(BEST, 10 * BATCH)
    scene.turns.turn()
    before_last_strict = scene.channels.sent[: [each.quality for each in scene.channels.sent].index(SQ)]
    assert not before_last_strict
    first = next(run for run in runs(scene.channels.sent) if run[0].quality is BQ)
    strict_left = scene.copies(SQ) - sum(each.copies for each in runs(scene.channels.sent)[0])
    if strict_left:
        assert sum(each.copies for each in first) <= CHUNK + 1


@pytest.mark.parametrize("apart", [True, False])
def test_a_channel_is_asked_to_send_only_where_there_is_something(
    apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, asked = Scene(apart=apart), list[Quality]()
    flush = scene.channels.flush

    def counting(quality: Quality, most: int | None = None) -> int | None:
        asked.append(quality)
        return flush(quality, most)

    monkeypatch.setattr(scene.channels, "flush", counting)
    assert not scene.turns.turn()
    assert asked == []
    scene.arrive(BEST)
    assert not scene.turns.turn()
    assert set(asked) == {BQ}
    assert scene.copies(BQ) == 1
